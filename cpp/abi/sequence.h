// A sequence of a context that a caller has a handle of, and the jobs on it.
#pragma once

#include "context.h"
#include "prompt.h"
#include "task.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace duo::abi {

class sequence {
public:
    sequence(const std::shared_ptr<context> & c, cache_sequence & cells) : owner(c), cells(cells) { publish(); }

    // Null once the context has been freed. `cells` lives no longer than it.
    std::shared_ptr<context> ctx() const { return owner.lock(); }

    // --- the scheduler's thread's ---

    cache_sequence & cells;
    bool             busy     = false; // a task runs on it
    bool             awaited  = false; // and another waits for it
    bool             released = false;

    // Makes what length() and resumable_from() say true.
    void publish();

    json describe() const { return { { "length", length() }, { "resumableFrom", resumable_from() } }; }

    // --- anybody's ---

    int32_t length() const { return length_; }
    int32_t resumable_from() const { return resumable_from_; }

    void add_job(const std::shared_ptr<job> & j);
    void cancel_jobs();

private:
    const std::weak_ptr<context> owner;

    std::atomic<int32_t> length_         = 0;
    std::atomic<int32_t> resumable_from_ = 0;

    std::mutex                      mutex;
    std::vector<std::weak_ptr<job>> jobs;
};

// Takes a handle's sequence back.
void free_sequence(const std::shared_ptr<sequence> & s);

// The tasks of llama_duo_sequence_create, _fork, _append, _truncate and _logits.
std::shared_ptr<task> create_sequence_task(std::shared_ptr<job> j, const std::shared_ptr<context> & c);
std::shared_ptr<task> fork_task    (std::shared_ptr<job> j, const std::shared_ptr<context> & c, std::shared_ptr<sequence> s);
std::shared_ptr<task> append_task  (std::shared_ptr<job> j, const std::shared_ptr<context> & c, std::shared_ptr<sequence> s, prompt p);
std::shared_ptr<task> truncate_task(std::shared_ptr<job> j, std::shared_ptr<sequence> s, size_t length);
std::shared_ptr<task> logits_task  (std::shared_ptr<job> j, const std::shared_ptr<context> & c, std::shared_ptr<sequence> s);

// Makes the logits of a sequence's last token come with the next tokens that are computed: that token waits, or is computed again. Throws where there is
// none, or where the cache cannot go back to before it.
void want_last_logits(cache_sequence & s);

} // namespace duo::abi
