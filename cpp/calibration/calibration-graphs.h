// Looking at the operator of a layer while the model computes: its tensors, and small graphs of our own beside them.
#pragma once

#include "calibration.h"

#include "mixed-attention.h"

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpp.h"

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <vector>

namespace duo {

// What a graph of ours is built from; tensors of the model's own graph may be among the sources too.
struct side_graph {
    ggml_context * ctx;

    // A new tensor with this data, which must live until the graph has been computed.
    ggml_tensor * input(ggml_type type, std::vector<int64_t> ne, const void * data);

    // The same of one row, whose data the graph keeps.
    ggml_tensor * input(std::vector<int32_t> data);

    std::vector<std::pair<ggml_tensor *, const void *>> inputs;
    std::list<std::vector<int32_t>>                     kept = {};
};

class side_graphs {
public:
    explicit side_graphs(int n_threads) : n_threads(n_threads) {}

    // Computes what build returns, a tensor of f32, on the device that `beside` is on; null: on the CPU. Throws calibration_error.
    std::vector<float> compute(const ggml_tensor * beside, const std::function<ggml_tensor *(side_graph &)> & build);

private:
    struct free_alloc { void operator()(ggml_gallocr * a) const { ggml_gallocr_free(a); } };

    struct device {
        ggml_backend_ptr                          backend;
        std::unique_ptr<ggml_gallocr, free_alloc> alloc;
    };

    device & device_of(const ggml_tensor * t);

    const int n_threads;
    std::map<ggml_backend_dev_t, device> devices;
};

// GGML_OP_MIXED_ATTN of one layer, computed: what attention-capturing methods read.
struct layer_op {
    explicit layer_op(const ggml_tensor * op);
    layer_op(const ggml_mixed_attn_sources & sources, const ggml_mixed_attn_params & p);

    int64_t dk()        const { return q->ne[0]; }
    int64_t n_head()    const { return q->ne[1]; }
    int64_t n_head_kv() const { return n_kv; }
    int64_t n_tokens()  const { return q->ne[2]; }

    int32_t position(int64_t t) const { return tokens[2 * t]; }
    int32_t stream  (int64_t t) const { return tokens[2 * t + 1]; }

    ggml_mixed_attn_params p;
    ggml_tensor *          q;       // [dk, n_head, n_tokens] f32, after RoPE
    ggml_tensor *          k;       // [dk, n_head_kv, n_tokens] f32, after RoPE; null: another layer stored the rows
    ggml_tensor *          k_cache; // every head in full, unless the layer has a window of the model's own
    int64_t                n_kv;
    std::vector<int32_t>   tokens;  // [n_tokens][2]
    int32_t                il;      // the layer that the rows are of
};

// The operator's softmax over q . k [n_keys, queries, n_head]; mask [n_keys, queries] or null.
ggml_tensor * softmax_of(const ggml_mixed_attn_params & p, ggml_context * ctx, ggml_tensor * kq, ggml_tensor * mask);

// A contiguous tensor's numbers, from wherever they are.
template <typename T>
std::vector<T> download(const ggml_tensor * t) {
    std::vector<T> data(ggml_nbytes(t) / sizeof(T));
    ggml_backend_tensor_get(t, data.data(), 0, ggml_nbytes(t));
    return data;
}

} // namespace duo
