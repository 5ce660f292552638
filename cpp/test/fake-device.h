// A device that is the CPU under another name: its memory is its own to llama.cpp, which copies to and from it, and it counts what is asked of it.
#pragma once

#include "ggml-backend.h"

#include <cstddef>
#include <memory>
#include <string>

class fake_device {
public:
    // has_operator: whether it computes GGML_OP_MIXED_ATTN; has_flash: GGML_OP_FLASH_ATTN_EXT
    fake_device(const std::string & name, bool has_operator, bool has_flash = false);
    ~fake_device();

    ggml_backend_dev_t         device();
    ggml_backend_buffer_type_t buffer_type();

    // What all such devices say where they are asked whether a layer's kernels are slow; null: they are not asked.
    inline static const char * slow_reason = nullptr;

    size_t free_bytes  = size_t(8) << 30; // as it tells
    size_t total_bytes = size_t(8) << 30;

    size_t n_buffers  = 0; // allocated so far
    size_t n_bytes    = 0;
    size_t n_attended = 0; // operators computed so far
    size_t n_flash    = 0; // flash attentions

private:
    struct parts;
    std::unique_ptr<parts> p;
};
