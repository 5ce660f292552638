// GCC before 12.4 and 13.3 takes _tile_loadconfig for a reader of 8 bytes, not 64 (https://gcc.gnu.org/PR114098), and leaves out what its caller stored in
// the rest: tiles of any size, and a fault. Included before llama.cpp's AMX kernels, this one says what is read.
#pragma once

#if defined(__GNUC__) && !defined(__clang__) && defined(__AMX_TILE__)

#include <immintrin.h>

static inline void duo_tile_loadconfig(const void * config) {
    __asm__ volatile("ldtilecfg %0" ::"m"(*(const char(*)[64]) config));
}
#define _tile_loadconfig duo_tile_loadconfig

#endif
