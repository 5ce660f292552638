// Handles that end with the thread that made them.
//
// A JavaScript worker that ends (by itself, by terminate() or process.exit()) runs nothing of ours in JavaScript, and without N-API there is no
// clean-up hook. But a worker is an operating system's thread on every runtime, and that thread's end is certain: pthread calls a key's
// destructor on it. A lease that a worker renews would free what a worker still uses that computes for long.
#pragma once

#include <cstdint>

namespace duo::abi {

// From now on what the calling thread submits, and what comes of it, ends with it: jobs are cancelled, models and contexts freed.
void own_by_this_thread();

// The calling thread as an owner; 0 where its end is to change nothing.
uint32_t this_owner();

} // namespace duo::abi
