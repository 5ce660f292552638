#include "induction-model.h"

#include "ggml-cpp.h"
#include "gguf.h"
#include "llama.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

// The residual stream: which token it is, which one came before, what comes next, each as one of 64, and a constant.
constexpr int64_t n_embd = 256, slot_token = 0, slot_before = 64, slot_next = 128, slot_one = 192;

// Of a head's 128 numbers RoPE turns the first 64 by angles from 1 to 1e-5 a position. The others turn by less than 0.02 over 2,000 positions, so that what they say of
// tokens holds at any distance.
constexpr int64_t head_size = 128, n_turning = 64, rest = n_turning;
constexpr double  freq_base = 1e10;

const float score_scale = std::sqrt(float(head_size)); // what attention divides q . k by

struct matrix {
    matrix(int64_t n_rows, int64_t n_cols) : n_rows(n_rows), n_cols(n_cols), data(n_rows * n_cols, 0.0f) {}

    float & at(int64_t row, int64_t col) { return data[row * n_cols + col]; } // output, input

    int64_t            n_rows, n_cols;
    std::vector<float> data;
};

class writer {
public:
    explicit writer(const induction_model & p) : p(p), rng(p.seed) {
        ctx.reset(ggml_init({ 64 << 20, nullptr, false }));
        gguf.reset(gguf_init_empty());
        keys();
        tensors();
    }

    gguf_context_ptr gguf;

private:
    void keys() {
        auto u32 = [&](const char * name, int64_t x) { gguf_set_val_u32(gguf.get(), name, uint32_t(x)); };
        gguf_set_val_str(gguf.get(), "general.architecture", "llama");
        gguf_set_val_str(gguf.get(), "tokenizer.ggml.model", "none");
        u32("llama.vocab_size", p.n_vocab);
        u32("llama.context_length", p.n_ctx);
        u32("llama.embedding_length", n_embd);
        u32("llama.block_count", p.n_layer);
        u32("llama.feed_forward_length", 32);
        u32("llama.attention.head_count", p.n_head);
        u32("llama.attention.head_count_kv", p.n_head);
        u32("llama.attention.key_length", head_size);
        u32("llama.attention.value_length", head_size);
        u32("llama.rope.dimension_count", head_size);
        gguf_set_val_f32(gguf.get(), "llama.attention.layer_norm_rms_epsilon", 1e-6f);
        gguf_set_val_f32(gguf.get(), "llama.rope.freq_base", float(freq_base));
    }

    void tensor(const std::string & name, const matrix & m) {
        ggml_tensor * t = m.n_rows == 1 ? ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, m.n_cols) : ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, m.n_cols, m.n_rows);
        ggml_set_name(t, name.c_str());
        std::copy(m.data.begin(), m.data.end(), (float *) t->data);
        gguf_add_tensor(gguf.get(), t);
    }

    // RMS norm weights that leave a stream with this many ones in it as it is.
    static matrix norm(int64_t n_ones) {
        matrix m(1, n_embd);
        std::fill(m.data.begin(), m.data.end(), std::sqrt(float(n_ones) / n_embd));
        return m;
    }

    struct attention {
        matrix q { induction_model::n_head * head_size, n_embd };
        matrix k { induction_model::n_head * head_size, n_embd };
        matrix v { induction_model::n_head * head_size, n_embd };
        matrix o { n_embd, induction_model::n_head * head_size };
    };

    // Scores of `height` times the sum over RoPE's angles of cos(angle * (distance - d)): highest at distance d.
    static void look_near(attention & a, int64_t h, double distance, double height) {
        const float amplitude = float(std::sqrt(height * score_scale));
        for (int64_t i = 0; i < n_turning / 2; ++i) {
            const double angle = std::pow(freq_base, -2.0 * double(i) / head_size) * distance;
            a.q.at(h * head_size + 2 * i,     slot_one) = amplitude;
            a.k.at(h * head_size + 2 * i,     slot_one) = amplitude * float(std::cos(angle));
            a.k.at(h * head_size + 2 * i + 1, slot_one) = amplitude * float(std::sin(angle));
        }
    }

    static void copy_token(attention & a, int64_t h, int64_t to, float strength) {
        for (int64_t t = 0; t < induction_model::n_vocab; ++t) {
            a.v.at(h * head_size + t, slot_token + t) = 1.0f;
            a.o.at(to + t, h * head_size + t) = strength;
        }
    }

    void add_noise(attention & a, int64_t h) {
        std::normal_distribution<float> noise;
        look_near(a, h, 0.0, 1.0);
        for (int64_t d = 0; d < head_size; ++d) {
            for (int64_t c = 0; c < slot_one; ++c) {
                a.v.at(h * head_size + d, c) = 0.1f * noise(rng);
                if (d >= rest) {
                    a.q.at(h * head_size + d, c) = 0.3f * noise(rng);
                    a.k.at(h * head_size + d, c) = 0.3f * noise(rng);
                }
            }
            for (int64_t c = 0; c < slot_one; ++c) {
                a.o.at(c, h * head_size + d) = 0.04f * noise(rng);
            }
        }
    }

    void tensors() {
        matrix embd(p.n_vocab, n_embd), output(p.n_vocab, n_embd);
        for (int64_t t = 0; t < p.n_vocab; ++t) {
            embd.at(t, slot_token + t) = 1.0f;
            embd.at(t, slot_one)       = 1.0f;
            output.at(t, slot_next + t) = 1.0f;
        }
        tensor("token_embd.weight", embd);
        tensor("output.weight", output);
        matrix ones(1, n_embd);
        std::fill(ones.data.begin(), ones.data.end(), 1.0f);
        tensor("output_norm.weight", ones);

        for (int64_t il = 0; il < p.n_layer; ++il) {
            attention a;
            for (int64_t h = 0; h < p.n_head; ++h) {
                if (il == 0 && h == 0) {
                    look_near(a, h, 1.0, 40.0);
                    for (int64_t d = rest; p.key_bias != 0 && d < head_size; ++d) {
                        a.k.at(h * head_size + d, slot_one) = p.key_bias * (rng() % 2 ? 1.0f : -1.0f);
                    }
                    copy_token(a, h, slot_before, 1.0f);
                } else if (il == p.layer && h == p.retrieval) {
                    for (int64_t t = 0; t < p.n_vocab; ++t) {
                        a.q.at(h * head_size + rest + t, slot_token + t)  = std::sqrt(30.0f * score_scale);
                        a.k.at(h * head_size + rest + t, slot_before + t) = std::sqrt(30.0f * score_scale);
                    }
                    copy_token(a, h, slot_next, 4.0f);
                } else {
                    add_noise(a, h);
                }
            }
            const std::string blk = "blk." + std::to_string(il) + ".";
            tensor(blk + "attn_norm.weight", norm(il == 0 ? 2 : 3));
            tensor(blk + "attn_q.weight", a.q);
            tensor(blk + "attn_k.weight", a.k);
            tensor(blk + "attn_v.weight", a.v);
            tensor(blk + "attn_output.weight", a.o);
            tensor(blk + "ffn_norm.weight", ones);
            tensor(blk + "ffn_gate.weight", matrix(32, n_embd));
            tensor(blk + "ffn_up.weight",   matrix(32, n_embd));
            tensor(blk + "ffn_down.weight", matrix(n_embd, 32));
        }
    }

    const induction_model & p;
    std::mt19937_64         rng;
    ggml_context_ptr        ctx;
};

} // namespace

llama_model_ptr_t make_induction_model(const induction_model & params) {
    const writer w(params);
    FILE * file = tmpfile(); // is gone once it is closed
    if (!file || !gguf_write_to_file_ptr(w.gguf.get(), file, false)) {
        throw std::runtime_error("cannot write a temporary file");
    }
    rewind(file);
    llama_model_params load = llama_model_default_params();
    load.load_mode = LLAMA_LOAD_MODE_NONE;
    llama_model * model = llama_model_load_from_file_ptr(file, load);
    fclose(file);
    if (!model) {
        throw std::runtime_error("llama.cpp does not load the hand-built model");
    }
    return llama_model_ptr_t(model, llama_model_free);
}

void write_induction_model(const induction_model & params, const std::string & path) {
    if (!gguf_write_to_file(writer(params).gguf.get(), path.c_str(), false)) {
        throw std::runtime_error("cannot write " + path);
    }
}
