// Mixed-head attention made of ggml's own operators, for devices that lack ours (mixed-attention.h) and for shapes that it has no fast kernels for.
//
// Rows of all heads are stored by their indices. Heads that keep the same cells lie together in the cache and are one group: one flash attention over their
// cells, under a mask that is made on the host.
//
//   K, V  --SET_ROWS--> the cache
//   Q  --GET_ROWS--> | queries of group 0 | of group 1 | --FLASH_ATTN_EXT each--> | group 0 | group 1 | --CONCAT, GET_ROWS--> heads in the model's order
//
// The sequences of a ubatch are the fourth dimension: they have equally many of its tokens, and their ids follow each other.
#pragma once

#include "mixed-attention.h"

#include <cstdint>
#include <functional>
#include <vector>

// What the layers of a cache need, worked out once.
class duo_primitives {
public:
    // What the queries of a group see. Layers share them.
    struct mask {
        int32_t sink;
        int32_t recent;
        int32_t chunk;
        int32_t ring;
        int64_t n_cells; // of a head
    };

    struct group {
        int32_t n_head_kv;
        int64_t first_row; // of its first head, within a sequence's stream
        int32_t i_mask;
    };

    struct layer {
        int64_t n_head; // of queries
        int64_t n_rows; // of a sequence's stream
        int32_t sink;

        std::vector<ggml_mixed_attn_head> heads; // in the model's order
        std::vector<int32_t>              order; // KV heads in the order of their rows
        std::vector<group>                groups;

        bool in_order() const; // the rows' order is the model's
        bool operator==(const layer & other) const;
    };

    // A layer's number; those that are alike have one. The arguments are the operator's.
    int32_t add(int64_t n_head, const std::vector<ggml_mixed_attn_head> & heads, const ggml_mixed_attn_params & params);

    std::vector<mask>  masks;
    std::vector<layer> layers; // all that differ
};

// The operator's tensors that a layer of primitives has, too: see ggml_mixed_attn.
struct duo_primitives_tensors {
    ggml_tensor * q;
    ggml_tensor * k;       // k and v: null where another layer stored them
    ggml_tensor * v;
    ggml_tensor * k_cache;
    ggml_tensor * v_cache;
    ggml_tensor * sinks;   // or null
};

// The inputs of one graph, for all layers: row indices, and the masks.
class duo_primitives_input {
public:
    // What a graph is built for.
    struct size {
        int64_t n_seq_tokens; // of each sequence
        int64_t n_seq;
        int32_t first_seq;
        int64_t n_kv;         // positions from the first on that the sequences may have: a multiple of 256, so that a graph serves many tokens

        bool operator==(const size & other) const;
    };

    // tokens: [n] position and stream. Empty: nothing is known of them, and the graph is to be as large as it may become.
    static size size_of(const std::vector<int32_t> & tokens, int64_t n_seq, int64_t n_seq_tokens, int64_t n_ctx);

    duo_primitives_input(ggml_context * ctx, const duo_primitives & what, const size & n);

    // tokens: as for size_of
    void set(const std::vector<int32_t> & tokens) const;

    const size & get_size() const { return n; }

    // All row indices, which a device other than the host takes a copy of: one for all layers.
    ggml_tensor * indices() const { return ids; }

    // A layer's attention, as ggml_mixed_attn has it. ids: indices(), or a device's copy of it. node is called with each tensor that something is to be computed for,
    // in the order in which they are to be.
    ggml_tensor * build(ggml_context * ctx, const std::function<void(ggml_tensor *)> & node, ggml_tensor * ids, int32_t i_layer,
            const duo_primitives_tensors & t, float scale, float softcap) const;

private:
    // Where a layer's indices begin.
    struct offsets {
        int64_t rows;  // [n_head_kv * n_tokens] of the cache, as K and V have them
        int64_t q;     // [n_head * n_tokens]    of Q, group by group; none where that is its order
        int64_t out;   // [n_head * n_tokens]    of the groups' results, in the model's order; likewise
        int64_t heads; // [n_head]               of the learned sinks, group by group
    };

    void set_indices(size_t il, const std::vector<int32_t> & tokens) const;
    void set_mask   (size_t im, const std::vector<int32_t> & tokens) const;

    const duo_primitives & what;
    const size n;

    std::vector<offsets> at; // [what.layers]

    ggml_tensor * ids; // i32
    std::vector<ggml_tensor *> masks; // [cells, n_seq_tokens, 1, n_seq] f16
};

// Whether a device computes such a layer of a context with so many sequences and tokens at a time. has_sinks: it has learned ones.
bool duo_primitives_supported(ggml_backend_dev_t dev, const ggml_mixed_attn_shape & shape, const std::vector<ggml_mixed_attn_head> & heads,
        const ggml_mixed_attn_params & params, bool has_sinks, int64_t n_seq, int64_t n_ubatch);
