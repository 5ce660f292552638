#include "engine-thread.h"

#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <list>
#include <mutex>
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

    void start(std::shared_ptr<worker> w) {
        std::unique_lock lock(mutex);
        if (stopping) {
            throw std::runtime_error("the process is ending");
        }
        join_ended(lock);

        threads.push_back({ std::move(w), {} });
        const auto it = std::prev(threads.end());

        pthread_attr_t attr;
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, stack_bytes);
        const int err = pthread_create(&it->id, &attr, main_of, it->w.get());
        pthread_attr_destroy(&attr);

        if (err) {
            threads.erase(it);
            throw std::system_error(err, std::generic_category(), "cannot start a thread");
        }
    }

    void cancel_all() {
        for (const auto & w : live()) {
            w->cancel();
        }
    }

    bool wait_until_idle(int32_t timeout_ms) {
        std::unique_lock lock(mutex);
        return rested.wait_for(lock, std::chrono::milliseconds(timeout_ms), [&] {
            for (auto & e : threads) {
                if (!e.w->idle()) {
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
        for (const auto & w : live()) {
            w->cancel();
            w->close();
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
        std::shared_ptr<worker> w;
        pthread_t               id;
    };

    std::mutex              mutex;
    std::condition_variable rested;
    std::list<entry>        threads;
    std::vector<pthread_t>  ended;  // to be joined, which takes no time
    bool                    stopping = false;

    std::vector<std::shared_ptr<worker>> live() {
        std::lock_guard lock(mutex);
        std::vector<std::shared_ptr<worker>> result;
        for (const auto & e : threads) {
            result.push_back(e.w);
        }
        return result;
    }

    void join_ended(std::unique_lock<std::mutex> &) {
        for (const pthread_t id : ended) {
            pthread_join(id, nullptr);
        }
        ended.clear();
    }

    void end(const worker * w) {
        std::shared_ptr<worker> dropped;  // outside of the lock
        std::lock_guard lock(mutex);
        for (auto it = threads.begin(); it != threads.end(); ++it) {
            if (it->w.get() == w) {
                ended.push_back(it->id);
                dropped = std::move(it->w);
                threads.erase(it);
                break;
            }
        }
        rested.notify_all();
    }

    static void * main_of(void * thread) {
        auto * w = static_cast<worker *>(thread);
        w->run();
        get().end(w);
        return nullptr;
    }
};

void start_thread(std::shared_ptr<worker> w) {
    static const bool armed = arm_exit_handler();
    (void) armed;

    thread_registry::get().start(std::move(w));
}

void note_rest() {
    thread_registry::get().note_rest();
}

namespace {

class lone_work : public worker {
public:
    lone_work(std::shared_ptr<job> j, std::function<void()> work) : j(std::move(j)), work(std::move(work)) {}

    void run() override {
        work();
        work = nullptr; // with all that it holds, on this thread
    }
    void cancel() override { j->cancel(); }
    void close() override {}
    bool idle() override { return false; } // until it has ended

private:
    const std::shared_ptr<job> j;
    std::function<void()>      work;
};

} // namespace

void run_alone(std::shared_ptr<job> j, std::function<void(job &)> work) {
    start_thread(std::make_shared<lone_work>(j, [j, work = std::move(work)] { j->run(work); }));
}

void run_part(std::shared_ptr<job> j, std::function<void()> work) {
    start_thread(std::make_shared<lone_work>(std::move(j), std::move(work)));
}

bool cancel_all_jobs(int32_t timeout_ms) {
    thread_registry::get().cancel_all();
    return thread_registry::get().wait_until_idle(timeout_ms);
}

bool arm_exit_handler() {
    return std::atexit([] { thread_registry::get().stop(); }) == 0;
}

} // namespace duo::abi
