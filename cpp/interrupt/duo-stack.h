// Calls a function that may need more stack than its thread has: std::regex recurses over what it matches.
#pragma once

#include <cstddef>
#include <functional>

// Calls f on a thread of its own that has so many bytes of stack (1 GiB at most; only what is used takes memory), and throws what f throws. A duo_interrupt of the
// calling thread is asked there, too.
void duo_on_stack(size_t n_bytes, const std::function<void()> & f);
