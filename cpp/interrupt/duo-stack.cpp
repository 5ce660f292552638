#include "duo-stack.h"

#include "duo-interrupt.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <optional>
#include <stdexcept>
#include <string>

#if defined(_WIN32)

void duo_on_stack(size_t, const std::function<void()> & f) {
    f();
}

#else

#include <pthread.h>

namespace {

struct call {
    const std::function<void()> & f;
    const std::function<void()> * check;
    std::exception_ptr            thrown;
};

void * run(void * data) {
    call & c = *static_cast<call *>(data);
    std::optional<duo_interrupt> interrupt;
    if (c.check) {
        interrupt.emplace(*c.check);
    }
    try {
        c.f();
    } catch (...) {
        c.thrown = std::current_exception();
    }
    return nullptr;
}

} // namespace

void duo_on_stack(size_t n_bytes, const std::function<void()> & f) {
    constexpr size_t page = 64 * 1024, max = 1024 * 1024 * 1024;
#if defined(__SANITIZE_ADDRESS__)
    n_bytes *= 4; // of larger frames
#endif
    n_bytes = std::min((n_bytes + page - 1) / page * page, max);

    call c = { f, duo_interrupt::innermost(), nullptr };
    pthread_t      thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    int err = pthread_attr_setstacksize(&attributes, n_bytes);
    err = err ? err : pthread_create(&thread, &attributes, run, &c);
    pthread_attr_destroy(&attributes);
    if (err) {
        throw std::runtime_error("there is no thread with a stack of " + std::to_string(n_bytes) + " bytes: " + strerror(err));
    }
    pthread_join(thread, nullptr);
    if (c.thrown) {
        std::rethrow_exception(c.thrown);
    }
}

#endif
