// What the process needs once: the log, the backends.
#pragma once

#include <string>

namespace duo::abi {

// Loads the backends, the first time. May take long where there is a GPU, so it is called on a job's thread.
void start_backends();

// Gives memory that was freed back to the system: the C library would keep it for the process.
void return_memory();

// JSON for llama_duo_build_info.
std::string build_info();

} // namespace duo::abi
