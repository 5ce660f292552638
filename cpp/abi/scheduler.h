// The thread of a context: runs its jobs together, a token or a piece of a prompt of each at a time.
#pragma once

#include "engine-thread.h"
#include "task.h"

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace duo::abi {

class context;

// A step is one llama_decode: the next token of each sequence that generates, with a draft of what may follow, and then pieces of prompts, a ubatch at most in all, in the order in which
// their jobs came. What comes of it is handed to the jobs, and the next step begins. A job that waits for its reader has no part in a step. Where all
// sequences are taken jobs wait in a queue, and those on a handle's sequence wait for each other.
class scheduler : public worker, public std::enable_shared_from_this<scheduler> {
public:
    using creation = std::function<std::shared_ptr<context>(job &, const std::shared_ptr<scheduler> &)>;

    // Runs the creation as the job, on a new thread, which then belongs to the context that it makes.
    static void start(std::shared_ptr<job> j, creation create);

    scheduler(std::shared_ptr<job> j, creation create);
    ~scheduler() override;

    // Runs the task once it is its turn. False: the thread is ending and takes no more.
    bool post(std::shared_ptr<task> t);

    // Cancels what is done on a handle's sequence, and takes it back.
    void release(const std::shared_ptr<sequence> & s);

    // Something may have changed: a reader has read, a job was cancelled.
    void wake();

    // Cancels everything and ends the thread. `last` runs on it when the context is no longer held by it.
    void end(std::function<void()> last);

    // --- a worker's ---

    void run() override;
    void cancel() override;
    void close() override { end({}); }
    bool idle() override;

private:
    struct piece {
        std::shared_ptr<task> t;
        cache_sequence *      s;
        size_t                n;
    };

    const std::shared_ptr<job> creating;
    creation                   create;

    // --- shared ---

    std::mutex                             mutex;
    std::condition_variable                changed;
    bool                                   woken  = false;
    bool                                   closed = false;
    std::function<void()>                  last;
    std::vector<std::shared_ptr<task>>     inbox;
    std::vector<std::shared_ptr<sequence>> released;
    std::vector<std::shared_ptr<job>>      live; // jobs that have not ended

    // --- the thread's own ---

    std::shared_ptr<context>               owner;
    llama_context *                        ctx = nullptr;
    std::vector<cache_sequence>            sequences;
    std::deque<std::shared_ptr<task>>      waiting;
    std::vector<std::shared_ptr<task>>     running;             // in the order in which they started
    std::vector<std::shared_ptr<sequence>> to_take_back;
    bool                                   hurry        = false;   // a job waits for a free sequence
    uint64_t                               n_given_back = 0;
    const std::vector<piece> *             computing    = nullptr; // what llama_decode works for

    bool take_in();           // false: it is time to end
    void end_cancelled();
    void take_back();         // of released sequences, those that nothing runs on
    void start_waiting();
    bool try_to_start(const std::shared_ptr<task> & t);
    std::vector<piece> pick();
    size_t draft(const std::vector<piece> & pieces, size_t n_left);
    void compute(const std::vector<piece> & pieces);
    int32_t decode(const std::vector<piece> & pieces, std::string & reason);
    void finish(const std::shared_ptr<task> & t);
    void forget(const std::shared_ptr<job> & j);
    void give_back(cache_sequence & s);
};

} // namespace duo::abi
