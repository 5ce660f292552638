// What the kernels are given: plain pointers and numbers, no framework. The rules are those of mixed-attention.h.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace duo::cuda {

enum class CacheType : int32_t { f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, iq4_nl };

// As ggml_mixed_attn_head.
struct alignas(16) Head {
    int32_t first_row;
    int32_t recent;
    int32_t ring;
    int32_t reserved;
};

constexpr int32_t SEES_ALL = 0x3fffffff; // Head::recent of a head that sees every key

// Values of a block of a quantised row, and bytes of a block of ggml's; a row of another type has single values. ggml-mixed-attn.cu compares them with
// ggml's own.
constexpr int BLOCK_VALUES = 32;

template <CacheType TYPE>
constexpr int BLOCK_BYTES = TYPE == CacheType::f32                                 ? 4
                          : TYPE == CacheType::f16  || TYPE == CacheType::bf16   ? 2
                          : TYPE == CacheType::q4_0 || TYPE == CacheType::iq4_nl ? 18
                          : TYPE == CacheType::q4_1                              ? 20
                          : TYPE == CacheType::q5_0                              ? 22
                          : TYPE == CacheType::q5_1                              ? 24
                                                                                 : 34;

// Bytes of a row of n values.
static inline size_t row_bytes(CacheType type, int32_t n) {
    switch (type) {
        case CacheType::f32:    return size_t(n) * BLOCK_BYTES<CacheType::f32>;
        case CacheType::f16:    return size_t(n) * BLOCK_BYTES<CacheType::f16>;
        case CacheType::bf16:   return size_t(n) * BLOCK_BYTES<CacheType::bf16>;
        case CacheType::q4_0:   return size_t(n) / BLOCK_VALUES * BLOCK_BYTES<CacheType::q4_0>;
        case CacheType::q4_1:   return size_t(n) / BLOCK_VALUES * BLOCK_BYTES<CacheType::q4_1>;
        case CacheType::q5_0:   return size_t(n) / BLOCK_VALUES * BLOCK_BYTES<CacheType::q5_0>;
        case CacheType::q5_1:   return size_t(n) / BLOCK_VALUES * BLOCK_BYTES<CacheType::q5_1>;
        case CacheType::q8_0:   return size_t(n) / BLOCK_VALUES * BLOCK_BYTES<CacheType::q8_0>;
        case CacheType::iq4_nl: return size_t(n) / BLOCK_VALUES * BLOCK_BYTES<CacheType::iq4_nl>;
    }
    return 0;
}

// Rows of a head are contiguous: row (stream, head, cell) is stream * n_rows + first row of the head + cell.
// The fast kernels copy whole groups of 8 cells, so first rows, n_rows and the cells of each head are multiples of 8.
struct Layout {
    const int32_t * tokens;     // [n_tokens][2]: position, stream; a stream's tokens in the order of their positions
    const Head    * heads;      // [n_head_kv]
    int64_t         n_rows;     // rows of one stream
    int32_t         n_tokens;
    int32_t         n_head_kv;
    int32_t         sink;
    int32_t         chunk;
};

constexpr int VALUE_ROTATION = 64; // the one side of a matrix that V's rows may be rotated by, where they are quantised

struct AttentionParams {
    Layout       layout;
    const float * q;            // [n_tokens][n_head][head_size_k], rotated where K's rows are
    const void  * k_cache;      // [n_rows * n_stream][head_size_k] of type_k
    const void  * v_cache;      // [n_rows * n_stream][head_size_v] of type_v
    const float * sinks;        // [n_head] learned sinks, or null: exp(sinks[head]) more in the denominator
    float       * dst;          // [n_tokens][n_head][head_size_v]
    float       * partials;     // scratch of attention_workspace() bytes, anything in it
    int32_t     * counters;     // [N_COUNTERS], zero before the first launch; every launch leaves zeros
    int32_t      n_head;
    int32_t      head_size_k;
    int32_t      head_size_v;
    int32_t      max_seq_tokens; // no stream has more tokens in this call; n_tokens if nothing better is known
    CacheType    type_k;
    CacheType    type_v;
    float        scale;         // multiplies q . k
    float        softcap;       // 0: none; else scores become softcap * tanh(score / softcap)
    int32_t      rotation_v;    // of V's rows, which the output is rotated back by: VALUE_ROTATION; 0: none
};

struct StoreParams {
    Layout        layout;
    const float * k;            // [n_tokens][n_head_kv][head_size_k], or null: keys and values are stored already
    const float * v;            // [n_tokens][n_head_kv][head_size_v]
    void        * k_cache;
    void        * v_cache;
    const float * q;            // [n_tokens][n_head][head_size_k]
    float       * q_rotated;    // the same, where K's rows are rotated
    int32_t       n_head;
    int32_t       rotation_k;   // of keys and queries: a power of two that divides the head size, 64 at least; 0: none
    int32_t       rotation_v;   // of values
    int32_t       head_size_k;
    int32_t       head_size_v;
    CacheType     type_k;
    CacheType     type_v;
};

constexpr int32_t N_COUNTERS    = 4096;
constexpr int32_t MAX_HEAD_SIZE = 512;

} // namespace duo::cuda
