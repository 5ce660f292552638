// What a device's memory gives, as this machine has it now.
#pragma once

#include "ggml-backend.h"

// Bytes read and written a second by copies of 1 GiB within the device (on the CPU of 256 MiB, by so many threads); 0 where it has no room for them.
double copy_bandwidth(ggml_backend_dev_t dev, int n_threads);
