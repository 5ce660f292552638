// What the process needs once: the log, the backends.
#pragma once

#include <string>
#include <utility>

namespace duo::abi {

// Gives freed memory back to the system when it is destroyed: as the first member of what holds much, it goes last. The C library keeps what was freed in
// pieces of less than 32 MiB, so a process that has disposed of ten contexts would look as if it had not.
struct heap_trim {
    heap_trim() = default;
    heap_trim(heap_trim && other) : armed(std::exchange(other.armed, false)) {}
    ~heap_trim();

private:
    bool armed = true;
};

// Loads the backends, the first time. May take long where there is a GPU, so it is called on a job's thread.
void start_backends();

// The text of llama_duo_build_id.
std::string build_id();

// JSON for llama_duo_build_info.
std::string build_info();

} // namespace duo::abi
