#include "calibration-graphs.h"

#include "ggml-cpu.h"

#include <string>

namespace duo {

static constexpr size_t max_nodes = 64;

ggml_tensor * side_graph::input(ggml_type type, std::vector<int64_t> ne, const void * data) {
    ggml_tensor * t = ggml_new_tensor(ctx, type, int(ne.size()), ne.data());
    ggml_set_input(t);
    inputs.push_back({ t, data });
    return t;
}

ggml_tensor * side_graph::input(std::vector<int32_t> data) {
    kept.push_back(std::move(data));
    return input(GGML_TYPE_I32, { int64_t(kept.back().size()) }, kept.back().data());
}

side_graphs::device & side_graphs::device_of(const ggml_tensor * t) {
    ggml_backend_dev_t dev = t ? ggml_backend_buft_get_device(ggml_backend_buffer_get_type(t->buffer)) : nullptr;
    if (!dev) {
        dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    }
    device & d = devices[dev];
    if (!d.backend) {
        d.backend.reset(ggml_backend_dev_init(dev, nullptr));
        if (!d.backend) {
            throw calibration_error(calibration_error::decode, std::string("cannot use ") + ggml_backend_dev_name(dev) + " to look at attention");
        }
        if (ggml_backend_is_cpu(d.backend.get())) {
            ggml_backend_cpu_set_n_threads(d.backend.get(), n_threads);
        }
        d.alloc.reset(ggml_gallocr_new(ggml_backend_get_default_buffer_type(d.backend.get())));
    }
    return d;
}

std::vector<float> side_graphs::compute(const ggml_tensor * beside, const std::function<ggml_tensor *(side_graph &)> & build) {
    device & d = device_of(beside);

    ggml_context_ptr ctx { ggml_init({ max_nodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(max_nodes, false), nullptr, /*.no_alloc =*/ true }) };
    side_graph    graph  = { ctx.get(), {}, {} };
    ggml_tensor * result = build(graph);
    ggml_set_output(result);

    ggml_cgraph * nodes = ggml_new_graph_custom(ctx.get(), max_nodes, false);
    ggml_build_forward_expand(nodes, result);
    if (!ggml_gallocr_alloc_graph(d.alloc.get(), nodes)) {
        throw calibration_error(calibration_error::decode, "there is no memory to look at attention with; use fewer or shorter samples");
    }
    for (const auto & [t, data] : graph.inputs) {
        if (t->buffer) { // else nothing depends on it
            ggml_backend_tensor_set(t, data, 0, ggml_nbytes(t));
        }
    }
    if (ggml_backend_graph_compute(d.backend.get(), nodes) != GGML_STATUS_SUCCESS) {
        throw calibration_error(calibration_error::decode, std::string("looking at attention failed on ") + ggml_backend_name(d.backend.get()));
    }
    return download<float>(result);
}

layer_op::layer_op(const ggml_tensor * op) : layer_op(ggml_mixed_attn_get_sources(op), ggml_mixed_attn_get_params(op)) {}

layer_op::layer_op(const ggml_mixed_attn_sources & s, const ggml_mixed_attn_params & p) :
    p(p), q(s.q), k(s.k), k_cache(s.k_cache), n_kv(s.heads->ne[1]), tokens(download<int32_t>(s.tokens)), il(p.layer) {}

ggml_tensor * softmax_of(const ggml_mixed_attn_params & p, ggml_context * ctx, ggml_tensor * kq, ggml_tensor * mask) {
    if (p.softcap == 0.0f) {
        return ggml_soft_max_ext(ctx, kq, mask, p.scale, 0.0f);
    }
    return ggml_soft_max_ext(ctx, ggml_tanh(ctx, ggml_scale(ctx, kq, p.scale / p.softcap)), mask, p.softcap, 0.0f);
}

} // namespace duo
