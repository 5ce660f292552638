// How threads of ggml's CPU backend wait for each other: they spin while the cores are theirs, and sleep while other programs want them.
//
// A thread that only spins can hold the very core that the thread it waits for needs: each of a graph's hundreds of barriers then takes a time slice
// of the scheduler, milliseconds. One that only sleeps takes tens of microseconds to wake, too much for a barrier where nothing else runs.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// One wait of one thread; all zeros when it begins.
struct duo_wait {
    uint32_t rounds;
    int64_t  spin_end; // nanoseconds of CLOCK_MONOTONIC
};

#ifdef __linux__

// Whether the wait shall go on spinning; if not, it is time to sleep.
bool duo_wait_spins(struct duo_wait * wait);

// A round of a wait that ends when another thread changes *word, an atomic int, from this value and calls duo_wake: returns to look again, or sleeps first.
void duo_wait_while(struct duo_wait * wait, const void * word, int value);

// Wakes all threads that sleep until *word changes, once it has.
void duo_wake(const void * word);

#else // waits spin

static inline bool duo_wait_spins(struct duo_wait * wait) { (void) wait; return true; }
static inline void duo_wait_while(struct duo_wait * wait, const void * word, int value) { (void) wait; (void) word; (void) value; }
static inline void duo_wake(const void * word) { (void) word; }

#endif

#ifdef __cplusplus
}
#endif
