// Numbers that stand for objects across the C ABI.
#pragma once

#include "job.h"

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>
#include <variant>
#include <vector>

namespace duo::abi {

class  context;
class  sequence;
class  lora;
class  embedder;
struct model;

// A job_error with code "limit".
struct too_many_handles : job_error {
    too_many_handles();
};

// A handle is a slot in its low bits and, above, how often that slot was used: a stale handle finds another generation and so nothing.
class handle_table {
public:
    // owner: as this_owner() says
    // Throws too_many_handles where no more fit.
    template <class T> uint32_t add(std::shared_ptr<T> object, uint32_t owner = 0) {
        std::lock_guard lock(mutex);
        return insert(std::move(object), owner);
    }

    // The object, or null where the handle is stale, of another kind or never was one.
    template <class T> std::shared_ptr<T> get(uint32_t handle) {
        std::lock_guard lock(mutex);
        slot * s = find(handle);
        auto * held = s ? std::get_if<std::shared_ptr<T>>(&s->object) : nullptr;
        return held ? *held : nullptr;
    }

    // As get, and gives the handle back.
    template <class T> std::shared_ptr<T> take(uint32_t handle) {
        std::lock_guard lock(mutex);
        return take_locked<T>(handle);
    }

    // As take and then add, for which there is room: what is to be freed can be, however many handles are live.
    template <class T, class U> std::shared_ptr<T> exchange(uint32_t handle, std::shared_ptr<U> other, uint32_t owner, uint32_t * other_handle) {
        std::lock_guard lock(mutex);
        auto object = take_locked<T>(handle);
        if (object) {
            *other_handle = insert(std::move(other), owner);
        }
        return object;
    }

    // Takes all objects of a kind that an owner has.
    template <class T> std::vector<std::shared_ptr<T>> take_all(uint32_t owner) {
        std::lock_guard lock(mutex);
        std::vector<std::shared_ptr<T>> taken;
        for (uint32_t i = 0; i < slots.size(); i++) {
            auto * held = slots[i].owner == owner ? std::get_if<std::shared_ptr<T>>(&slots[i].object) : nullptr;
            if (held) {
                taken.push_back(std::move(*held));
                release(i);
            }
        }
        return taken;
    }

private:
    using any_object = std::variant<std::monostate, std::shared_ptr<job>, std::shared_ptr<model>, std::shared_ptr<context>,
        std::shared_ptr<sequence>, std::shared_ptr<lora>, std::shared_ptr<embedder>>;

    struct slot {
        uint32_t   generation = 1;  // never 0, so no handle is 0
        uint32_t   owner      = 0;
        any_object object;
    };

    std::mutex           mutex;
    std::vector<slot>    slots;
    std::deque<uint32_t> free_slots;  // longest free first

    // --- with the mutex held ---

    template <class T> std::shared_ptr<T> take_locked(uint32_t handle) {
        slot * s = find(handle);
        auto * held = s ? std::get_if<std::shared_ptr<T>>(&s->object) : nullptr;
        if (!held) {
            return nullptr;
        }
        std::shared_ptr<T> object = std::move(*held);
        release(handle);
        return object;
    }

    uint32_t insert(any_object object, uint32_t owner);
    slot *   find(uint32_t handle);
    void     release(uint32_t handle);
};

// The process's table. It is never destroyed: other threads may use it for as long as the process lives.
handle_table & handles();

} // namespace duo::abi
