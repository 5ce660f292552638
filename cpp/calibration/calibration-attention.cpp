#include "calibration-attention.h"

#include "calibration-graphs.h"
#include "visibility.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

namespace duo {

namespace {

// --- attention beyond sinks and window ---

// What a KV head's query heads pay to keys that a streaming head would not see.
class far_attention {
public:
    enum what { mass, maximum };

    far_attention(const std::vector<int32_t> & n_head_kv, const calibration_params & params, what what) : params(params), w(what), graphs(params.n_threads) {
        for (const int32_t n : n_head_kv) {
            found.emplace_back(params.samples.size(), std::vector<double>(size_t(n), 0.0));
        }
        n_queries.assign(n_head_kv.size(), std::vector<size_t>(params.samples.size(), 0));
    }

    // Looks at the tokens for which wanted(sequence, position). keys_end: keys from there on don't count.
    void look(const layer_op & op, const std::function<bool(int32_t, int32_t)> & wanted, const std::function<int32_t(int32_t)> & keys_end) {
        const std::vector<float> q = download<float>(op.q);

        // a tile's scores take at most 64 MiB
        const int64_t most = std::max<int64_t>(1, (16 << 20) / (op.n_head() * op.p.n_ctx));
        for (int64_t t = 0; t < op.n_tokens();) {
            const int32_t stream = op.stream(t);
            std::vector<int64_t> tile;
            for (; t < op.n_tokens() && op.stream(t) == stream && int64_t(tile.size()) < most; ++t) {
                if (wanted(stream, op.position(t))) {
                    tile.push_back(t);
                }
            }
            if (!tile.empty()) {
                look(op, q, stream, tile, keys_end(stream));
            }
        }
    }

    // [n_layer * n_head_kv], means over the samples. mass: a mean over query heads and tokens; maximum: over all of them.
    std::vector<double> scores() const {
        std::vector<double> s;
        for (size_t il = 0; il < found.size(); ++il) {
            for (size_t h = 0; h < found[il][0].size(); ++h) {
                double sum = 0;
                for (size_t i = 0; i < params.samples.size(); ++i) {
                    sum += w == mass ? found[il][i][h] / double(n_queries[il][i]) : found[il][i][h];
                }
                s.push_back(sum / double(params.samples.size()));
            }
        }
        return s;
    }

private:
    void look(const layer_op & op, const std::vector<float> & q, int32_t stream, const std::vector<int64_t> & tile, int32_t keys_end) {
        const int64_t n_q    = int64_t(tile.size());
        const int64_t n_keys = op.position(tile.back()) + 1;
        const size_t  row    = size_t(op.dk() * op.n_head());

        std::vector<float> tile_q(size_t(n_q) * row);
        std::vector<float> causal(size_t(n_q * n_keys)), far(size_t(n_q * n_keys));
        for (int64_t i = 0; i < n_q; ++i) {
            memcpy(&tile_q[size_t(i) * row], &q[size_t(tile[i]) * row], row * sizeof(float));
            const int64_t p   = op.position(tile[i]);
            const int64_t end = std::min<int64_t>(keys_end, duo_window_begin(p, params.recent, 1));
            for (int64_t j = 0; j < n_keys; ++j) {
                causal[i * n_keys + j] = j <= p ? 0.0f : -std::numeric_limits<float>::infinity();
                far   [i * n_keys + j] = j >= params.sink && j < end;
            }
        }
        const std::vector<float> weights = graphs.compute(op.k_cache, [&](side_graph & g) {
            const size_t  nb = op.k_cache->nb[1];
            ggml_tensor * k  = ggml_view_3d(g.ctx, op.k_cache, op.dk(), n_keys, op.n_head_kv(), nb, nb * op.p.n_ctx, nb * stream * op.p.n_rows);
            if (k->type == GGML_TYPE_F16) { // with AVX512-FP16 llama.cpp sums products of f16 in f16, where those of Qwen2.5's large keys are infinite
                k = ggml_cast(g.ctx, k, GGML_TYPE_F32);
            }
            ggml_tensor * x  = g.input(GGML_TYPE_F32, { op.dk(), op.n_head(), n_q }, tile_q.data());
            ggml_tensor * kq = ggml_mul_mat(g.ctx, k, ggml_permute(g.ctx, x, 0, 2, 1, 3)); // [n_keys, n_q, n_head]
            ggml_mul_mat_set_prec(kq, GGML_PREC_F32);
            kq = softmax_of(op.p, g.ctx, kq, g.input(GGML_TYPE_F32, { n_keys, n_q }, causal.data()));
            kq = ggml_mul(g.ctx, kq, g.input(GGML_TYPE_F32, { n_keys, n_q }, far.data()));
            return w == mass ? ggml_sum_rows(g.ctx, kq) : ggml_pool_2d(g.ctx, kq, GGML_OP_POOL_MAX, int(n_keys), int(n_q), int(n_keys), int(n_q), 0, 0);
        });

        const int64_t group = op.n_head() / op.n_head_kv();
        const int64_t n     = int64_t(weights.size()) / op.n_head(); // of one query head
        for (int64_t i = 0; i < int64_t(weights.size()); ++i) {
            double & x = found[op.il][stream][i / n / group];
            x = w == mass ? x + weights[i] / double(group) : std::max(x, double(weights[i]));
        }
        n_queries[op.il][stream] += size_t(n_q);
    }

    const calibration_params & params;
    const what                 w;
    side_graphs                graphs;

    std::vector<std::vector<std::vector<double>>> found;     // [n_layer][sample][n_head_kv]
    std::vector<std::vector<size_t>>              n_queries; // [n_layer][sample]
};

// --- the mean query on the mean key ---

class mean_attention {
public:
    mean_attention(size_t n_layer, const calibration_params & params) : graphs(params.n_threads), layers(n_layer) {
        for (const auto & s : params.samples) {
            n_ctx = std::max<int64_t>(n_ctx, int64_t(s.n_context));
            n_tokens += s.n_context;
        }
    }

    void look(const layer_op & op, const ggml_tensor * rope) {
        layer & l = layers[op.il];
        l = { op.p, turning(rope, op), op.dk(), op.n_head(), op.n_head_kv(), std::move(l.q), std::move(l.k) };

        std::vector<int32_t> positions;
        for (int64_t t = 0; t < op.n_tokens(); ++t) {
            positions.push_back(op.position(t));
        }
        add(l.q, turned_back(l, download<float>(op.q), positions), positions.size());
        add(l.k, turned_back(l, download<float>(op.k), positions), positions.size());
    }

    // [n_layer * n_head_kv]: how far back attention reaches on average, as a share of the context; a mean over the group's query heads.
    std::vector<double> scores() {
        if (std::none_of(layers.begin(), layers.end(), [](const layer & l) { return l.turn.any; })) {
            throw calibration_error(calibration_error::unsupported,
                    "method mean-qk needs RoPE: without it a mean query sees all mean keys alike; use another method");
        }
        std::vector<double> s;
        for (const layer & l : layers) {
            const std::vector<float> weights = l.dk ? weights_of(l) : std::vector<float>(); // [n_head][n_ctx]
            for (int64_t h = 0; h < l.n_head_kv; ++h) {
                const int64_t group = l.n_head / l.n_head_kv;
                double sum = 0;
                for (int64_t i = h * group * n_ctx; i < (h + 1) * group * n_ctx; ++i) {
                    sum += weights[i] * double(n_ctx - i % n_ctx) / double(n_ctx);
                }
                s.push_back(sum / double(group));
            }
        }
        return s;
    }

private:
    // RoPE as the model has it in one layer.
    struct turning {
        turning() : any(false) {}
        turning(const ggml_tensor * rope, const layer_op & op) : any(rope != nullptr) {
            if (!any) {
                return;
            }
            if (rope->ne[0] != op.dk()) {
                throw calibration_error(calibration_error::unsupported,
                        "method mean-qk needs RoPE on whole heads, and this model turns a part that it keeps apart; use another method");
            }
            memcpy(op_params, rope->op_params, sizeof(op_params));
            if (rope->src[2]) {
                factors = download<float>(rope->src[2]);
            }
        }

        // x [dk, heads, positions], turned, or turned back.
        ggml_tensor * build(side_graph & g, ggml_tensor * x, const std::vector<int32_t> & positions, bool back) const {
            if (!any) {
                return x;
            }
            const bool has_axes = op_params[2] & GGML_ROPE_TYPE_MROPE;
            int sections[] = { op_params[11], op_params[12], op_params[13], op_params[14] };
            std::vector<int32_t> at = positions;
            for (int axis = 1; has_axes && axis < 4; ++axis) { // a text's tokens are at the same place on three axes and at 0 on the fourth
                axis < 3 ? (void) at.insert(at.end(), positions.begin(), positions.end()) : at.resize(4 * positions.size(), 0);
            }
            ggml_tensor * p = g.input(std::move(at));
            ggml_tensor * f = factors.empty() ? nullptr : g.input(GGML_TYPE_F32, { int64_t(factors.size()) }, factors.data());
            ggml_tensor * y = has_axes ?
                    ggml_rope_multi(g.ctx, x, p, f, op_params[1], sections, op_params[2], op_params[4], 0, 0, 0, 0, 0, 0) :
                    ggml_rope_ext(g.ctx, x, p, f, op_params[1], op_params[2], op_params[4], 0, 0, 0, 0, 0, 0);
            memcpy(y->op_params, op_params, sizeof(op_params));
            if (back) {
                // turning scales by the attention factor and, with YaRN, by more: ggml's inverse would do so again
                float freq_scale, ext_factor, attn_factor;
                memcpy(&freq_scale,  op_params + 6, sizeof(float));
                memcpy(&ext_factor,  op_params + 7, sizeof(float));
                memcpy(&attn_factor, op_params + 8, sizeof(float));
                const float yarn = ext_factor != 0.0f ? 1.0f + 0.1f * std::log(1.0f / freq_scale) : 1.0f;
                const float undo = 1.0f / (attn_factor * yarn * yarn);
                memcpy(y->op_params + 8, &undo, sizeof(float));
                y->op = GGML_OP_ROPE_BACK;
            }
            return y;
        }

        bool               any;
        int32_t            op_params[GGML_MAX_OP_PARAMS / sizeof(int32_t)] = {};
        std::vector<float> factors; // of frequencies; empty: none
    };

    struct layer {
        ggml_mixed_attn_params p;
        turning                turn;
        int64_t                dk        = 0;
        int64_t                n_head    = 0;
        int64_t                n_head_kv = 0;
        std::vector<double>    q; // [n_head][dk], sum over all tokens, before RoPE
        std::vector<double>    k; // [n_head_kv][dk]
    };

    // x [tokens][heads][dk]
    std::vector<float> turned_back(const layer & l, const std::vector<float> & x, const std::vector<int32_t> & positions) {
        const int64_t n = int64_t(positions.size());
        return graphs.compute(nullptr, [&](side_graph & g) {
            return ggml_cont(g.ctx, l.turn.build(g, g.input(GGML_TYPE_F32, { l.dk, int64_t(x.size()) / n / l.dk, n }, x.data()), positions, true));
        });
    }

    // Attention of the mean query, at the context's last position, to the mean key, at each: [n_head][n_ctx].
    std::vector<float> weights_of(const layer & l) {
        const auto mean = [&](const std::vector<double> & sum, int64_t times) {
            std::vector<float> x;
            for (int64_t i = 0; i < times; ++i) {
                for (const double s : sum) {
                    x.push_back(float(s / double(n_tokens)));
                }
            }
            return x;
        };
        const std::vector<float> q = mean(l.q, 1), k = mean(l.k, n_ctx);
        const std::vector<int32_t> last = { int32_t(n_ctx - 1) };
        std::vector<int32_t> all;
        for (int64_t i = 0; i < n_ctx; ++i) {
            all.push_back(int32_t(i));
        }
        return graphs.compute(nullptr, [&](side_graph & g) {
            ggml_tensor * tq = l.turn.build(g, g.input(GGML_TYPE_F32, { l.dk, l.n_head,    1     }, q.data()), last, false);
            ggml_tensor * tk = l.turn.build(g, g.input(GGML_TYPE_F32, { l.dk, l.n_head_kv, n_ctx }, k.data()), all,  false);
            ggml_tensor * kq = ggml_mul_mat(g.ctx, ggml_permute(g.ctx, tk, 0, 2, 1, 3), ggml_permute(g.ctx, tq, 0, 2, 1, 3)); // [n_ctx, 1, n_head]
            return softmax_of(l.p, g.ctx, kq, nullptr);
        });
    }

    // sum += each of the rows of x
    static void add(std::vector<double> & sum, const std::vector<float> & x, size_t n_rows) {
        sum.resize(x.size() / n_rows);
        for (size_t i = 0; i < x.size(); ++i) {
            sum[i % sum.size()] += x[i];
        }
    }

    side_graphs        graphs;
    std::vector<layer> layers;
    int64_t            n_ctx    = 0; // the longest context
    size_t             n_tokens = 0; // of all contexts
};

} // namespace

// --- methods ---

std::vector<double> attention_scores(calibration_passes & passes, const std::vector<int32_t> & n_head_kv, const calibration_params & params) {
    const auto has_gates = [&](const layer_op & op) { return n_head_kv[op.il] > 0; };

    head_windows none;
    for (const int32_t n : n_head_kv) {
        none.emplace_back(size_t(n), GGML_MIXED_ATTN_ALL);
    }

    if (params.method == calibration_method::mean_qk) {
        mean_attention mean(n_head_kv.size(), params);
        passes.on_attention = [&](const ggml_tensor * t, const ggml_tensor * rope) {
            if (const layer_op op(t); has_gates(op) && op.k) {
                mean.look(op, rope);
            }
        };
        passes.read_contexts(none);
        passes.on_attention = nullptr;
        return mean.scores();
    }

    passes.read_contexts(none);

    if (params.method == calibration_method::kvzip) {
        // what the repetition itself has said doesn't count, as in KVzip
        far_attention far(n_head_kv, params, far_attention::maximum);
        passes.on_attention = [&](const ggml_tensor * t, const ggml_tensor *) {
            if (const layer_op op(t); has_gates(op)) {
                far.look(op, [](int32_t, int32_t) { return true; }, [&](int32_t i) { return int32_t(params.samples[i].n_context); });
            }
        };
        passes.repeat_contexts(none);
        passes.on_attention = nullptr;
        return far.scores();
    }

    std::vector<std::set<int32_t>> asked; // positions that an answer's token is told from
    for (const auto & s : params.samples) {
        asked.emplace_back();
        for (const auto & [first, end] : s.answers) {
            for (size_t p = first; p < end; ++p) {
                asked.back().insert(int32_t(p) - 1);
            }
        }
    }
    far_attention far(n_head_kv, params, far_attention::mass);
    passes.on_attention = [&](const ggml_tensor * t, const ggml_tensor *) {
        if (const layer_op op(t); has_gates(op)) {
            far.look(op, [&](int32_t i, int32_t p) { return asked[i].count(p) > 0; }, [&](int32_t i) { return int32_t(params.samples[i].tokens.size()); });
        }
    };
    passes.read_tails(none);
    passes.on_attention = nullptr;
    return far.scores();
}

} // namespace duo
