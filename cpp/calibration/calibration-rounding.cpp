#include "calibration-rounding.h"

#include "calibration-graphs.h"

#include <algorithm>

namespace duo {

// The mean of the squared lengths of a head's rows. rows [head size, n_head, n_tokens]
static std::vector<double> squared_lengths(const ggml_tensor * rows) {
    const std::vector<float> data = download<float>(rows);
    const size_t n_head = size_t(rows->ne[1]), size = size_t(rows->ne[0]);
    std::vector<double> means(n_head);
    for (size_t i = 0; i < data.size(); ++i) {
        means[i / size % n_head] += double(data[i]) * data[i] / double(rows->ne[2]);
    }
    return means;
}

std::vector<double> score_errors(calibration_passes & passes, const head_windows & windows) {
    std::vector<double> errors(windows.size());
    passes.on_attention = [&](const ggml_tensor * op, const ggml_tensor *) {
        const layer_op layer(op);
        if (!layer.k) {
            return; // another layer stored the rows
        }
        const std::vector<double> q = squared_lengths(layer.q), k = squared_lengths(layer.k);
        for (size_t h = 0; h < q.size(); ++h) {
            double & error = errors[size_t(layer.il)];
            error = std::max(error, double(layer.p.scale) * layer.p.scale * q[h] * k[h * k.size() / q.size()]);
        }
    };
    passes.read_tails(windows);
    passes.on_attention = nullptr;
    return errors;
}

} // namespace duo
