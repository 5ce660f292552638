#include "copy-bandwidth.h"

#include "ggml-cpp.h"

#include <algorithm>
#include <chrono>
#include <vector>

double copy_bandwidth(ggml_backend_dev_t dev, int n_threads) {
    const bool    on_cpu = ggml_backend_dev_type(dev) == GGML_BACKEND_DEVICE_TYPE_CPU;
    const int64_t n      = on_cpu ? 64 << 20 : 256 << 20; // floats
    const int     copies = on_cpu ? 1 : 8;                // of a graph: a GPU's start and end of one take a tenth of a copy
    size_t free = 0, total = 0;
    ggml_backend_dev_memory(dev, &free, &total);
    if (free < 3 * n * sizeof(float)) { // asking for more than there is would be told as an error
        return 0;
    }
    ggml_backend_ptr backend { ggml_backend_dev_init(dev, nullptr) };
    ggml_context_ptr ctx { ggml_init({ size_t(copies + 2) * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, /*.no_alloc =*/ true }) };
    ggml_tensor * from  = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, n), * to = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, n);
    ggml_cgraph * graph = ggml_new_graph(ctx.get());
    for (int i = 0; i < copies; ++i) {
        ggml_build_forward_expand(graph, ggml_cpy(ctx.get(), from, to));
    }
    ggml_backend_buffer_ptr buffer { backend ? ggml_backend_alloc_ctx_tensors(ctx.get(), backend.get()) : nullptr };
    if (!buffer) {
        return 0;
    }
    ggml_backend_buffer_clear(buffer.get(), 1);
    const auto set_threads = (ggml_backend_set_n_threads_t) ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(dev), "ggml_backend_set_n_threads");
    if (set_threads) {
        set_threads(backend.get(), n_threads);
    }
    std::vector<double> seconds;
    for (int i = 0; i < 13; ++i) {
        const auto start = std::chrono::steady_clock::now();
        ggml_backend_graph_compute(backend.get(), graph); // returns when it is done
        if (i >= 3) {
            seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
        }
    }
    std::sort(seconds.begin(), seconds.end());
    return 2.0 * copies * n * sizeof(float) / seconds[seconds.size() / 2];
}
