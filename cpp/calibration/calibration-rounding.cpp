#include "calibration-rounding.h"

#include "calibration-graphs.h"

#include <algorithm>

namespace duo {

namespace {

// Sums over the rows that were seen.
struct lengths {
    std::vector<double> squares; // of each head
    int64_t             n_rows = 0;

    // rows [head size, n_head, n_tokens] f32
    void add(const ggml_tensor * rows) {
        const std::vector<float> data = download<float>(rows);
        const size_t n_head = size_t(rows->ne[1]), size = size_t(rows->ne[0]);
        squares.resize(n_head);
        for (size_t i = 0; i < data.size(); ++i) {
            squares[i / size % n_head] += double(data[i]) * data[i];
        }
        n_rows += rows->ne[2];
    }
};

struct layer_lengths {
    lengths q, k;
    double  scale = 0;
};

} // namespace

std::vector<double> score_errors(calibration_passes & passes, const head_windows & windows) {
    std::vector<layer_lengths> seen(windows.size());
    passes.on_attention = [&](const ggml_tensor * op, const ggml_tensor *) {
        const layer_op layer(op);
        if (layer.k) { // else another layer stored the rows
            layer_lengths & l = seen[size_t(layer.il)];
            l.q.add(layer.q);
            l.k.add(layer.k);
            l.scale = layer.p.scale;
        }
    };
    passes.read_tails(windows);
    passes.on_attention = nullptr;

    std::vector<double> errors;
    for (const layer_lengths & l : seen) {
        double worst = 0;
        const size_t n_head = l.q.squares.size(), n_head_kv = l.k.squares.size();
        for (size_t h = 0; h < n_head; ++h) {
            worst = std::max(worst, l.scale * l.scale * l.q.squares[h] / double(l.q.n_rows) * l.k.squares[h * n_head_kv / n_head] / double(l.k.n_rows));
        }
        errors.push_back(worst);
    }
    return errors;
}

} // namespace duo
