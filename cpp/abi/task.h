// A job of a context, as its scheduler runs it: what it needs, what is to be computed for it, and what it does with that.
#pragma once

#include "cache-sequence.h"
#include "job.h"

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

namespace duo::abi {

class sequence;

// Tokens of a sequence that were computed together. Its draft, whose first logits are those after them, was computed with them.
struct computed_piece {
    size_t  first;   // index of the first in the sequence
    size_t  n;
    int32_t i_batch; // its index for llama_get_logits_ith
};

// Where nothing else is said it is called on the scheduler's thread, and what it throws is the job's end.
class task {
public:
    // on: the handle's sequence that it works on, if any
    explicit task(std::shared_ptr<job> j, std::shared_ptr<sequence> on = nullptr) : j(std::move(j)), on(std::move(on)) {}
    virtual ~task() = default;

    const std::shared_ptr<job>      j;
    const std::shared_ptr<sequence> on;

    // How many free sequences it needs, beside the one it is on.
    virtual size_t n_free() const { return on ? 0 : 1; }

    // Whether prepare takes so long that it is to have a thread of its own.
    virtual bool is_long() const { return false; }

    // Makes ready to start. No sequence is held meanwhile.
    virtual void prepare() {}

    // What it is going to read: the free sequence that has most of it is taken.
    virtual const std::vector<llama_token> & prefix() const {
        static const std::vector<llama_token> none;
        return none;
    }

    // own: the one that it is on, else the free one that has most of the prompt; then other free ones.
    virtual void start(const std::vector<cache_sequence *> & own) = 0;

    // Whether tokens of a sequence that wait may be computed now. hurry: others wait for a sequence, or for this one, so it should not wait for a reader.
    virtual bool wants(const cache_sequence & s, bool hurry) {
        (void) s;
        (void) hurry;
        return true;
    }

    // How many tokens may be drafted after a sequence's last one, at most; 0: none yet, but later. Nothing: none, ever.
    virtual std::optional<size_t> n_draft(const cache_sequence & s, bool hurry) const {
        (void) s;
        (void) hurry;
        return {};
    }

    // How many tokens may be computed at once, at most.
    virtual size_t max_piece() const { return SIZE_MAX; }

    virtual void computed(cache_sequence & s, const computed_piece & p) = 0;

    // The cache has no room for tokens that wait.
    virtual void no_room(cache_sequence & s) = 0;

    // Whether a free sequence that it got stays taken when the job ends: it has a handle now.
    virtual bool keeps(const cache_sequence & s) const {
        (void) s;
        return false;
    }

    // --- the scheduler's ---

    std::atomic<bool>             prepared = false;
    std::vector<cache_sequence *> own;          // while it runs
    size_t                        n_before = 0; // the length of the sequence it is on, when it started
};

} // namespace duo::abi
