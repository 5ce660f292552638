#include "engine-thread.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <list>
#include <system_error>
#include <vector>

namespace duo::abi {

// ggml's graphs recurse little, but grammars and tokenizers do, and macOS would give a thread 512 KiB.
static constexpr size_t stack_bytes = 8 * 1024 * 1024;

// Knows every thread, so that the process can wait for them. Never destroyed: threads use it until they are joined.
class thread_registry {
public:
    static thread_registry & get() {
        static auto * registry = new thread_registry;
        return *registry;
    }

    void start(std::shared_ptr<engine_thread> t) {
        std::unique_lock lock(mutex);
        if (stopping) {
            throw std::runtime_error("the process is ending");
        }
        join_ended(lock);

        threads.push_back({ std::move(t), {} });
        const auto it = std::prev(threads.end());

        pthread_attr_t attr;
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, stack_bytes);
        const int err = pthread_create(&it->id, &attr, main_of, it->thread.get());
        pthread_attr_destroy(&attr);

        if (err) {
            threads.erase(it);
            throw std::system_error(err, std::generic_category(), "cannot start a thread");
        }
    }

    void count_waiting() {
        for (const auto & t : live()) {
            t->count_waiting();
        }
    }

    void cancel_all() {
        for (const auto & t : live()) {
            t->cancel();
        }
    }

    bool wait_until_idle(int32_t timeout_ms) {
        std::unique_lock lock(mutex);
        return rested.wait_for(lock, std::chrono::milliseconds(timeout_ms), [&] {
            for (auto & e : threads) {
                if (!e.thread->idle()) {
                    return false;
                }
            }
            return true;
        });
    }

    void note_rest() {
        std::lock_guard lock(mutex);
        rested.notify_all();
    }

    // For good: no thread starts after this.
    void stop() {
        {
            std::lock_guard lock(mutex);
            stopping = true;
        }
        for (const auto & t : live()) {
            t->cancel();
            t->close();
        }

        std::unique_lock lock(mutex);
        for (auto & e : threads) {
            if (pthread_equal(e.id, pthread_self())) {
                return;  // exit was called from within a job: that thread cannot be waited for
            }
        }
        rested.wait(lock, [&] { return threads.empty(); });
        join_ended(lock);
    }

private:
    struct entry {
        std::shared_ptr<engine_thread> thread;
        pthread_t                      id;
    };

    std::mutex              mutex;
    std::condition_variable rested;
    std::list<entry>        threads;
    std::vector<pthread_t>  ended;  // to be joined, which takes no time
    bool                    stopping = false;

    std::vector<std::shared_ptr<engine_thread>> live() {
        std::lock_guard lock(mutex);
        std::vector<std::shared_ptr<engine_thread>> result;
        for (const auto & e : threads) {
            result.push_back(e.thread);
        }
        return result;
    }

    void join_ended(std::unique_lock<std::mutex> &) {
        for (const pthread_t id : ended) {
            pthread_join(id, nullptr);
        }
        ended.clear();
    }

    void end(const engine_thread * t) {
        std::shared_ptr<engine_thread> dropped;  // outside of the lock
        std::lock_guard lock(mutex);
        for (auto it = threads.begin(); it != threads.end(); ++it) {
            if (it->thread.get() == t) {
                ended.push_back(it->id);
                dropped = std::move(it->thread);
                threads.erase(it);
                break;
            }
        }
        rested.notify_all();
    }

    static void * main_of(void * thread) {
        auto * t = static_cast<engine_thread *>(thread);
        t->loop();
        get().end(t);
        return nullptr;
    }
};

std::shared_ptr<engine_thread> engine_thread::start() {
    static const bool armed = arm_exit_handler();
    (void) armed;

    auto t = std::make_shared<engine_thread>();
    thread_registry::get().start(t);
    return t;
}

bool engine_thread::post(std::shared_ptr<job> j, work w) {
    std::lock_guard lock(mutex);
    if (closed) {
        return false;
    }
    queue.push_back({ std::move(j), std::move(w) });
    if (running) {
        running->set_waited_for(true);
    }
    wake.notify_one();
    return true;
}

void engine_thread::cancel() {
    std::lock_guard lock(mutex);
    if (running) {
        running->cancel();
    }
    for (auto & e : queue) {
        e.j->cancel();
    }
}

bool engine_thread::is_awaited() const {
    return std::any_of(queue.begin(), queue.end(), [](const entry & e) { return e.j->state() == LLAMA_DUO_JOB_QUEUED; });
}

void engine_thread::count_waiting() {
    std::lock_guard lock(mutex);
    if (running) {
        running->set_waited_for(is_awaited());
    }
}

void engine_thread::close(std::function<void()> then) {
    std::lock_guard lock(mutex);
    closed = true;
    if (then) {
        last = std::move(then);
    }
    wake.notify_one();
}

bool engine_thread::idle() {
    std::lock_guard lock(mutex);
    return !running && queue.empty() && !closed;  // a closed thread is at work until it has ended
}

void engine_thread::loop() {
    std::unique_lock lock(mutex);
    for (;;) {
        wake.wait(lock, [&] { return !queue.empty() || closed; });
        if (queue.empty()) {
            break;
        }

        work w  = std::move(queue.front().w);
        running = std::move(queue.front().j);
        queue.pop_front();
        running->set_waited_for(is_awaited());

        lock.unlock();
        running->run(w);
        w = nullptr;
        lock.lock();

        running.reset();
        if (queue.empty()) {
            lock.unlock();
            thread_registry::get().note_rest();
            lock.lock();
        }
    }

    const auto then = std::move(last);
    lock.unlock();
    if (then) {
        then();
    }
}

void run_alone(std::shared_ptr<job> j, engine_thread::work w) {
    const auto t = engine_thread::start();
    t->post(std::move(j), std::move(w));
    t->close();
}

void cancel_job(job & j) {
    j.cancel();
    thread_registry::get().count_waiting();
}

bool cancel_all_jobs(int32_t timeout_ms) {
    thread_registry::get().cancel_all();
    return thread_registry::get().wait_until_idle(timeout_ms);
}

bool arm_exit_handler() {
    return std::atexit([] { thread_registry::get().stop(); }) == 0;
}

} // namespace duo::abi
