// Where a layer's cache is and what attends to it, chosen once: when the cache is made.
#pragma once

#include "mixed-attention.h"

#include <functional>
#include <set>
#include <string>

struct duo_placement {
    ggml_backend_dev_t dev;        // has the rows and attends
    bool               primitives; // with ggml's own operators (duo-primitives.h), not with ours (mixed-attention.h)
};

// Prefers our operator where it is fast, then ggml's own operators, then ours on the device, then ours on the host. What is less than the first is said in
// the log, once.
class duo_placer {
public:
    // LLAMA_DUO_ATTENTION is for tests and comparisons: "operator" or "primitives" where a device, or the host, can. Throws std::runtime_error for anything else.
    // operator_only: never ggml's own.
    explicit duo_placer(bool operator_only);

    // dev: the device that computes the layer. has_primitives: whether a device has all that the layer needs of ggml's own operators.
    duo_placement place(ggml_backend_dev_t dev, const ggml_mixed_attn_shape & shape, const std::function<bool(ggml_backend_dev_t)> & has_primitives);

private:
    // Whether nothing like it was said before.
    bool first(const std::string & what) { return said.insert(what).second; }

    enum { best, own_operator, primitives } wish = best;

    std::set<std::string> said;
};
