#include "thread-owner.h"

#include "context.h"
#include "embedder.h"
#include "handle-table.h"
#include "job.h"
#include "lora.h"
#include "model.h"
#include "sequence.h"

#include <pthread.h>

#include <atomic>
#include <system_error>

namespace duo::abi {

static void end_of_thread(void * value) {
    const uint32_t owner = uint32_t(reinterpret_cast<uintptr_t>(value));
    try {
        // jobs first: after this none of them makes a model or context any more
        for (const auto & j : handles().take_all<job>(owner)) {
            j->cancel();
        }
        for (const auto & s : handles().take_all<sequence>(owner)) {
            free_sequence(s);
        }
        for (auto & c : handles().take_all<context>(owner)) {
            free_context(std::move(c), std::make_shared<job>());
        }
        for (auto & e : handles().take_all<embedder>(owner)) {
            free_embedder(std::move(e), std::make_shared<job>());
        }
        handles().take_all<lora>(owner);
        for (auto & m : handles().take_all<model>(owner)) {
            free_model(std::move(m), std::make_shared<job>());
        }
    } catch (...) {
        // there is no memory, or the process is ending, too
    }
}

// pthread's own, since a thread_local's destructor would run for the main thread as well, while the process ends.
static pthread_key_t key() {
    static const pthread_key_t k = [] {
        pthread_key_t created;
        if (const int err = pthread_key_create(&created, end_of_thread)) {
            throw std::system_error(err, std::generic_category(), "cannot watch for a thread's end");
        }
        return created;
    }();
    return k;
}

void own_by_this_thread() {
    static std::atomic<uint32_t> last = 0;
    if (this_owner() == 0) {
        const uint32_t owner = ++last;
        if (const int err = pthread_setspecific(key(), reinterpret_cast<void *>(uintptr_t(owner)))) {
            throw std::system_error(err, std::generic_category(), "cannot watch for a thread's end");
        }
    }
}

uint32_t this_owner() {
    return uint32_t(reinterpret_cast<uintptr_t>(pthread_getspecific(key())));
}

} // namespace duo::abi
