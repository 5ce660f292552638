// The cases of GGML_OP_MIXED_ATTN for llama.cpp's test-backend-ops, which includes this file behind its own cases' types: a backend against the CPU's
// reference, which attends in float64 over an explicit mask (cpp/attention/reference.h).

#include "mixed-attention.h"

struct test_mixed_attn : public test_case {
    const int64_t dk, dv;                  // head sizes
    const int64_t nh, nr;                  // KV heads, query heads of each
    const int64_t past;                    // tokens that the first sequence holds before; each further one holds 17 more
    const std::vector<int32_t> n_tokens;   // of each sequence in the ubatch
    const std::array<int32_t, 3> window;   // sinks, recent keys, chunk
    const ggml_type type_K, type_V;
    const float softcap;
    const bool sinks;                      // learned ones
    const bool rotated;                    // quantised rows are

    std::string vars() override {
        std::string list;
        for (const int32_t n : n_tokens) {
            list += (list.empty() ? "" : "+") + std::to_string(n);
        }
        return VARS_TO_STR5(dk, dv, nh, nr, past) + ",n_tokens=" + list + "," + VARS_TO_STR6(window, type_K, type_V, softcap, sinks, rotated);
    }

    double max_nmse_err() override { return 3e-6; } // tensor cores round to f16: 1.5e-3 squared, and some room

    double max_nmse_err(ggml_backend_t backend) override {
        return ggml_backend_dev_type(ggml_backend_get_device(backend)) == GGML_BACKEND_DEVICE_TYPE_CPU ? 1e-10 : max_nmse_err();
    }

    test_mixed_attn(int64_t dk, int64_t dv, int64_t nh, int64_t nr, int64_t past, std::vector<int32_t> n_tokens, std::array<int32_t, 3> window, ggml_type type_K,
                    ggml_type type_V, float softcap = 0.0f, bool sinks = false, bool rotated = false)
        : dk(dk), dv(dv), nh(nh), nr(nr), past(past), n_tokens(std::move(n_tokens)), window(window), type_K(type_K), type_V(type_V), softcap(softcap), sinks(sinks),
          rotated(rotated) {}

    // Heads take turns: one sees every key, one has a ring, one keeps every key and sees a window.
    static bool sees_all(int64_t head) { return head % 3 == 0; }
    static bool has_ring(int64_t head) { return head % 3 == 1; }

    int64_t n_all() const {
        int64_t n = 0;
        for (const int32_t x : n_tokens) {
            n += x;
        }
        return n;
    }
    int64_t first_position(size_t seq) const { return past + 17 * int64_t(seq); }
    int64_t n_ctx() const { return GGML_PAD(first_position(n_tokens.size()) + n_all(), 64); }
    int64_t ring() const { return GGML_PAD(window[0] + window[1] + window[2] + n_all(), 64) - window[0]; }
    int64_t n_cells(int64_t head) const { return has_ring(head) ? window[0] + ring() : n_ctx(); }
    int64_t first_row(int64_t head) const {
        int64_t row = 0;
        for (int64_t h = 0; h < head; ++h) {
            row += n_cells(h);
        }
        return row;
    }

    ggml_tensor * build_graph(ggml_context * ctx) override {
        const int64_t n = n_all(), n_rows = first_row(nh);
        ggml_tensor * q        = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, dk, nh * nr, n);
        ggml_tensor * k        = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, dk, nh, n);
        ggml_tensor * v        = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, dv, nh, n);
        ggml_tensor * k_cache  = ggml_new_tensor_2d(ctx, type_K, dk, n_rows * int64_t(n_tokens.size()));
        ggml_tensor * v_cache  = ggml_new_tensor_2d(ctx, type_V, dv, n_rows * int64_t(n_tokens.size()));
        ggml_tensor * tokens   = ggml_new_tensor_2d(ctx, GGML_TYPE_I32, 2, n);
        ggml_tensor * heads    = ggml_new_tensor_2d(ctx, GGML_TYPE_I32, 4, nh);
        ggml_tensor * scores   = sinks ? ggml_new_tensor_1d(ctx, GGML_TYPE_F32, nh * nr) : nullptr;
        ggml_set_name(q, "q");
        ggml_set_name(tokens, "tokens");
        ggml_set_name(heads, "heads");

        ggml_mixed_attn_params p = {};
        p.scale          = 1.0f / sqrtf(float(dk));
        p.softcap        = softcap;
        p.sink           = window[0];
        p.chunk          = window[2];
        p.n_ctx          = int32_t(n_ctx());
        p.max_seq_tokens = *std::max_element(n_tokens.begin(), n_tokens.end());
        p.n_rows         = n_rows;
        p.rotation_k     = rotated && ggml_is_quantized(type_K) ? int32_t(dk & -dk) : 0; // as llama.cpp chooses
        p.rotation_v     = rotated && ggml_is_quantized(type_V) ? 64 : 0;
        ggml_tensor * out = ggml_mixed_attn(ctx, q, k, v, k_cache, v_cache, tokens, heads, scores, p);
        ggml_set_name(out, "out");
        return out;
    }

    void initialize_tensors(ggml_context * ctx) override {
        for (ggml_tensor * t = ggml_get_first_tensor(ctx); t != nullptr; t = ggml_get_next_tensor(ctx, t)) {
            if (strcmp(t->name, "tokens") == 0) {
                std::vector<int32_t> data;
                for (size_t seq = 0; seq < n_tokens.size(); ++seq) {
                    for (int32_t i = 0; i < n_tokens[seq]; ++i) {
                        data.push_back(int32_t(first_position(seq)) + i);
                        data.push_back(int32_t(seq));
                    }
                }
                ggml_backend_tensor_set(t, data.data(), 0, ggml_nbytes(t));
            } else if (strcmp(t->name, "heads") == 0) {
                std::vector<ggml_mixed_attn_head> data;
                for (int64_t h = 0; h < nh; ++h) {
                    data.push_back({ int32_t(first_row(h)), sees_all(h) ? GGML_MIXED_ATTN_ALL : window[1], int32_t(has_ring(h) ? ring() : n_ctx()), 0 });
                }
                ggml_backend_tensor_set(t, data.data(), 0, ggml_nbytes(t));
            } else if (strcmp(t->name, "q") == 0) {
                init_tensor_uniform(t, -4.0f, 4.0f); // so that keys weigh very unlike
            } else {
                init_tensor_uniform(t);
            }
        }
    }
};

static void add_mixed_attn_cases(std::vector<std::unique_ptr<test_case>> & cases) {
    const auto add = [&](auto... args) { cases.emplace_back(new test_mixed_attn(args...)); };
    using tokens = std::vector<int32_t>;
    using sizes  = std::array<int32_t, 3>;
    const sizes usual = { 16, 64, 1 };

    // every cache type: prefill, decode of one sequence and of several, and a ubatch that mixes both
    for (const ggml_type type : { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q5_1, GGML_TYPE_Q5_0, GGML_TYPE_Q4_1, GGML_TYPE_Q4_0, GGML_TYPE_IQ4_NL }) {
        for (const tokens & n : { tokens { 1 }, tokens { 2 }, tokens { 40 }, tokens { 1, 1, 1, 1 }, tokens { 1, 40, 1 } }) {
            add(64, 64, 3, 4, 300, n, usual, type, type);
        }
    }
    // head sizes, with and without a fast kernel
    for (const int64_t d : { 64, 80, 96, 128, 192, 256, 40, 512 }) {
        for (const tokens & n : { tokens { 1 }, tokens { 40 } }) {
            add(d, d, 3, 4, 200, n, usual, GGML_TYPE_F16, GGML_TYPE_F16);
            if (d % 64 == 0) {
                add(d, d, 3, 4, 200, n, usual, GGML_TYPE_Q4_0, GGML_TYPE_Q4_0);
            }
        }
    }
    // K and V that differ
    add(96, 64, 3, 4, 200, tokens { 7 }, usual, GGML_TYPE_F16, GGML_TYPE_F16);
    add(64, 64, 3, 4, 200, tokens { 7 }, usual, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0);
    // query heads of a KV head
    for (const int64_t nr : { 1, 3, 7, 8, 16, 33 }) {
        for (const tokens & n : { tokens { 1 }, tokens { 5 }, tokens { 1, 1 } }) {
            add(128, 128, 3, nr, 200, n, usual, GGML_TYPE_F16, GGML_TYPE_F16);
        }
    }
    // a few tokens of a sequence: 12 to 32 query heads together
    for (const tokens & n : { tokens { 3 }, tokens { 4 }, tokens { 8 }, tokens { 6, 1 } }) {
        for (const ggml_type type : { GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 }) {
            for (const bool rotated : { false, true }) {
                add(128, 128, 3, 4, 200, n, usual, type, type, 0.0f, false, rotated && type != GGML_TYPE_F16);
            }
        }
    }
    // windows, from an empty cache on as well
    for (const sizes & window : { sizes { 0, 0, 1 }, sizes { 0, 8, 1 }, sizes { 4, 0, 16 }, sizes { 64, 64, 7 }, sizes { 130, 70, 64 } }) {
        for (const int64_t past : { 0, 1, 129, 1000 }) {
            add(64, 64, 3, 2, past, tokens { 3, 30 }, window, GGML_TYPE_F16, GGML_TYPE_F16);
        }
    }
    // learned sinks
    for (const tokens & n : { tokens { 1 }, tokens { 40 }, tokens { 1, 1, 1, 1 }, tokens { 3, 30 } }) {
        add(64, 64, 3, 8, 300, n, usual, GGML_TYPE_F16, GGML_TYPE_F16, 0.0f, true);
        add(64, 64, 3, 8, 300, n, usual, GGML_TYPE_Q8_0, GGML_TYPE_Q8_0, 0.0f, true);
        add(40, 40, 3, 2, 300, n, usual, GGML_TYPE_F32, GGML_TYPE_F32, 0.0f, true);
    }
    // rotated rows: prefill in one part and in several, decode of one sequence and of several, a mix
    for (const tokens & n : { tokens { 1 }, tokens { 40 }, tokens { 600 }, tokens { 1, 1, 1, 1 }, tokens { 1, 40, 1 } }) {
        for (const int64_t d : { 64, 128, 192, 256, 512 }) {
            add(d, d, 3, 4, 300, n, usual, GGML_TYPE_Q4_0, GGML_TYPE_Q4_0, 0.0f, false, true);
        }
        add(128, 128, 3, 4, 300, n, usual, GGML_TYPE_Q8_0, GGML_TYPE_Q5_1, 0.0f, false, true);
        add(128, 128, 3, 4, 300, n, usual, GGML_TYPE_F16, GGML_TYPE_Q8_0, 0.0f, false, true);
        add(192, 64, 3, 4, 300, n, usual, GGML_TYPE_IQ4_NL, GGML_TYPE_F16, 0.0f, false, true);
        add(64, 192, 3, 4, 300, n, usual, GGML_TYPE_Q8_0, GGML_TYPE_Q8_0, 0.0f, false, true);
    }
    // a soft cap; many segments
    add(64, 64, 3, 4, 300, tokens { 1 },  usual, GGML_TYPE_F16, GGML_TYPE_F16, 20.0f);
    add(64, 64, 3, 4, 300, tokens { 40 }, usual, GGML_TYPE_F16, GGML_TYPE_F16, 20.0f);
    add(64, 64, 2, 4, 9000, tokens { 1 }, usual, GGML_TYPE_Q8_0, GGML_TYPE_Q8_0);
}
