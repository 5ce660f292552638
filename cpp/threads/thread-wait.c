#ifdef __linux__

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "thread-wait.h"

#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// Longer than a thread with a core of its own keeps the others waiting in a graph, shorter than the scheduler's time slice.
static const int64_t SPIN_NS = 1000 * 1000;

// For how long no wait spins once one has spun in vain. A core may be gone for a moment only, so it is short at first. It doubles each time that the next
// wait spins in vain soon: beside other programs a fiftieth of the time at most is lost on finding that out again.
static const int64_t SLEEP_NS_FIRST = 3 * 1000 * 1000;
static const int64_t SLEEP_NS_MOST  = 50 * 1000 * 1000;

static _Atomic int64_t sleep_until; // of all waits of the process; 0: they spin
static _Atomic int64_t sleep_ns;    // how long the last one was
static _Atomic int64_t slept_until; // and when it ended
static atomic_int      n_sleepers;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t) t.tv_sec * 1000000000 + t.tv_nsec;
}

// Of several threads that would begin a sleep at once one does, or the sleep would double more than once.
static void begin_sleep(void) {
    const int64_t now  = now_ns();
    const int64_t last = atomic_load_explicit(&sleep_ns, memory_order_relaxed);
    const bool    soon = now - atomic_load_explicit(&slept_until, memory_order_relaxed) < SPIN_NS + last;
    const int64_t next = !soon || last == 0 ? SLEEP_NS_FIRST : last < SLEEP_NS_MOST / 2 ? 2 * last : SLEEP_NS_MOST;
    int64_t spinning = 0;
    if (atomic_compare_exchange_strong(&sleep_until, &spinning, now + next)) {
        atomic_store_explicit(&sleep_ns, next, memory_order_relaxed);
        atomic_store_explicit(&slept_until, now + next, memory_order_relaxed);
    }
}

bool duo_wait_spins(struct duo_wait * wait) {
    const int64_t until = atomic_load_explicit(&sleep_until, memory_order_relaxed);
    if (until != 0) {
        if (now_ns() < until) {
            return false;
        }
        atomic_store_explicit(&sleep_until, 0, memory_order_relaxed);
    }
    if (++wait->rounds % 32 != 0) { // most waits end before the clock is read once
        return true;
    }
    const int64_t now = now_ns();
    if (wait->spin_end == 0) {
        wait->spin_end = now + SPIN_NS;
    }
    return now < wait->spin_end;
}

void duo_wait_while(struct duo_wait * wait, const void * word, int value) {
    if (duo_wait_spins(wait)) {
        return;
    }
    begin_sleep();
    // Counted before the kernel compares, as the waker changes *word before it looks at the count: one of the two sees what the other did.
    atomic_fetch_add(&n_sleepers, 1);
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
    atomic_fetch_sub(&n_sleepers, 1);
}

void duo_wake(const void * word) {
    if (atomic_load(&n_sleepers) > 0) {
        syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
    }
}

#endif
