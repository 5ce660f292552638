// Threads of the library's own, and what runs on them.
#pragma once

#include "job.h"

#include <functional>
#include <memory>

namespace duo::abi {

// What a thread does. All but run is called from other threads, and whenever.
class worker {
public:
    virtual ~worker() = default;

    // The thread's whole life.
    virtual void run() = 0;

    // Cancels all that it works on or that waits for it.
    virtual void cancel() = 0;

    // Makes run return soon, now or once it has nothing to do.
    virtual void close() = 0;

    // Whether it has nothing to do, and would not mind to be left so.
    virtual bool idle() = 0;
};

// A thread for it. Throws where there can be none.
void start_thread(std::shared_ptr<worker> w);

// To be called by a worker that has become idle.
void note_rest();

// A thread for one job.
void run_alone(std::shared_ptr<job> j, std::function<void(job &)> work);

// A thread for a part of a job, which does not end with it.
void run_part(std::shared_ptr<job> j, std::function<void()> work);

// Cancels all jobs and waits until no thread has work; false after timeout_ms.
bool cancel_all_jobs(int32_t timeout_ms);

// To be called wherever the process may have gained static objects that a running job uses (a backend, a first model, a first decode):
// registers a handler with atexit that cancels all jobs and joins the threads, so that it runs before those objects are destroyed.
// Returns true, for `static const bool armed = arm_exit_handler();`, once for each place.
bool arm_exit_handler();

} // namespace duo::abi
