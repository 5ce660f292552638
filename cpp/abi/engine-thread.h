// Threads of the library's own: each runs jobs one after the other.
#pragma once

#include "job.h"

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

namespace duo::abi {

class engine_thread {
public:
    using work = std::function<void(job &)>;

    // A new thread. Throws where there can be none.
    static std::shared_ptr<engine_thread> start();

    // Runs the work as the job, after those posted before. False: the thread is ending and takes no more.
    bool post(std::shared_ptr<job> j, work w);

    // Cancels the running job and all that wait.
    void cancel();

    // To be called once a job that waits was cancelled: the running one is no longer waited for on its account.
    void count_waiting();

    // Ends the thread once its queue is empty. `last` runs on it before it ends.
    void close(std::function<void()> last = {});

private:
    struct entry {
        std::shared_ptr<job> j;
        work                 w;
    };

    std::mutex              mutex;
    std::condition_variable wake;
    std::deque<entry>       queue;
    std::shared_ptr<job>    running;
    bool                    closed = false;
    std::function<void()>   last;

    void loop();
    bool idle();
    bool is_awaited() const;  // with the mutex held

    friend class thread_registry;
};

// A thread for one job.
void run_alone(std::shared_ptr<job> j, engine_thread::work w);

// Cancels a job, running or waiting.
void cancel_job(job & j);

// Cancels all jobs and waits until no thread has work; false after timeout_ms.
bool cancel_all_jobs(int32_t timeout_ms);

// To be called wherever the process may have gained static objects that a running job uses (a backend, a first model, a first decode):
// registers a handler with atexit that cancels all jobs and joins the threads, so that it runs before those objects are destroyed.
// Returns true, for `static const bool armed = arm_exit_handler();`, once for each place.
bool arm_exit_handler();

} // namespace duo::abi
