#include "handle-table.h"

namespace duo::abi {

static constexpr uint32_t slot_bits      = 14;
static constexpr uint32_t max_slots      = 1u << slot_bits;
static constexpr uint32_t max_generation = (1u << (32 - slot_bits)) - 1;

// A slot rests until this many others were freed after it, so that generations come round only after 2^8 * 2^18 handles.
static constexpr size_t min_rest = 256;

too_many_handles::too_many_handles()
    : job_error("limit", std::to_string(max_slots) + " models, contexts, sequences, adapters and jobs are live: free those that are no longer needed") {}

uint32_t handle_table::insert(any_object object, uint32_t owner) {
    uint32_t i;
    if (free_slots.size() > min_rest || (slots.size() == max_slots && !free_slots.empty())) {
        i = free_slots.front();
        free_slots.pop_front();
    } else if (slots.size() < max_slots) {
        i = uint32_t(slots.size());
        slots.emplace_back();
    } else {
        throw too_many_handles();
    }

    slots[i].object = std::move(object);
    slots[i].owner  = owner;
    return slots[i].generation << slot_bits | i;
}

handle_table::slot * handle_table::find(uint32_t handle) {
    const uint32_t i = handle & (max_slots - 1);
    return i < slots.size() && slots[i].generation == handle >> slot_bits ? &slots[i] : nullptr;
}

void handle_table::release(uint32_t handle) {
    const uint32_t i = handle & (max_slots - 1);

    slots[i].object     = std::monostate();
    slots[i].generation = slots[i].generation == max_generation ? 1 : slots[i].generation + 1;
    free_slots.push_back(i);
}

handle_table & handles() {
    static auto * table = new handle_table;
    return *table;
}

} // namespace duo::abi
