#include "random-model.h"

#include "ggml-cpp.h"
#include "gguf.h"
#include "llama.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <stdexcept>
#include <vector>

namespace {

class writer {
public:
    explicit writer(const random_model_params & p) :
        p(p), n_embd(p.n_embd ? p.n_embd : p.n_head * p.head_size), n_ff(p.n_ff ? p.n_ff : 2 * n_embd), rng(p.seed) {
        // rows of n_embd and of n_ff, the largest ones; the rest is small
        const int64_t n_q = p.n_head * p.head_size, n_kv = p.n_head_kv * p.head_size;
        const size_t bytes = ggml_row_size(p.type, n_embd) * (2 * p.n_vocab + p.n_layer * (n_q + 2 * n_kv + 2 * n_ff)) +
                p.n_layer * n_embd * (ggml_row_size(p.type, n_q) + ggml_row_size(p.type, n_ff));
        ctx.reset(ggml_init({ bytes + (3 + 9 * p.n_layer) * (n_embd * sizeof(float) + 1024), nullptr, false }));
        gguf.reset(gguf_init_empty());
        keys();
        tensors();
    }

    void write(const std::string & path) {
        if (!gguf_write_to_file(gguf.get(), path.c_str(), false)) {
            throw std::runtime_error("cannot write " + path);
        }
    }

private:
    std::string key(const char * name) const { return p.arch + "." + name; }

    void keys() {
        auto u32 = [&](const char * name, int64_t x) { gguf_set_val_u32(gguf.get(), key(name).c_str(), uint32_t(x)); };
        gguf_set_val_str(gguf.get(), "general.architecture", p.arch.c_str());
        gguf_set_val_str(gguf.get(), "tokenizer.ggml.model", "none");
        u32("vocab_size", p.n_vocab);
        u32("context_length", p.n_ctx);
        u32("embedding_length", n_embd);
        u32("block_count", p.n_layer);
        u32("feed_forward_length", n_ff);
        u32("attention.head_count", p.n_head);
        u32("attention.head_count_kv", p.n_head_kv);
        u32("attention.key_length", p.head_size);
        u32("attention.value_length", p.head_size);
        u32("rope.dimension_count", p.head_size);
        gguf_set_val_f32(gguf.get(), key("attention.layer_norm_rms_epsilon").c_str(), 1e-5f);
        gguf_set_val_f32(gguf.get(), key("rope.freq_base").c_str(), 10000.0f);
    }

    // Entries of variance scale^2 / ne0, so that products keep their size; of the matrix type, if that is a matrix.
    void tensor(const std::string & name, int64_t ne0, int64_t ne1, float mean, float scale) {
        // uniform, which is quick to draw for a large model: of variance 1 over [-sqrt 3, sqrt 3]
        const float spread = scale / std::sqrt(ne1 > 1 ? float(ne0) : 1.0f) * std::sqrt(3.0f);
        std::vector<float> data(ne0 * ne1);
        for (float & x : data) {
            x = mean + spread * (float(rng() >> 40) * 0x1p-23f - 1.0f);
        }
        ggml_tensor * t = ggml_new_tensor_2d(ctx.get(), ne1 > 1 ? p.type : GGML_TYPE_F32, ne0, ne1);
        ggml_set_name(t, name.c_str());
        if (t->type == GGML_TYPE_F32) {
            memcpy(t->data, data.data(), ggml_nbytes(t));
        } else {
            ggml_quantize_chunk(t->type, data.data(), t->data, 0, ne1, ne0, nullptr);
        }
        gguf_add_tensor(gguf.get(), t);
    }

    void tensors() {
        const int64_t n_q = p.n_head * p.head_size, n_kv = p.n_head_kv * p.head_size;
        tensor("token_embd.weight", n_embd, p.n_vocab, 0.0f, std::sqrt(float(n_embd)));
        tensor("output_norm.weight", n_embd, 1, 1.0f, 0.1f);
        tensor("output.weight", n_embd, p.n_vocab, 0.0f, 1.0f);
        for (int64_t il = 0; il < p.n_layer; ++il) {
            const std::string blk = "blk." + std::to_string(il) + ".";
            tensor(blk + "attn_norm.weight", n_embd, 1, 1.0f, 0.1f);
            tensor(blk + "attn_q.weight", n_embd, n_q, 0.0f, 1.5f); // scores of some spread: attention that looks somewhere
            tensor(blk + "attn_k.weight", n_embd, n_kv, 0.0f, 1.5f);
            tensor(blk + "attn_v.weight", n_embd, n_kv, 0.0f, 1.0f);
            tensor(blk + "attn_output.weight", n_q, n_embd, 0.0f, 1.0f);
            tensor(blk + "ffn_norm.weight", n_embd, 1, 1.0f, 0.1f);
            tensor(blk + "ffn_gate.weight", n_embd, n_ff, 0.0f, 1.0f);
            tensor(blk + "ffn_up.weight", n_embd, n_ff, 0.0f, 1.0f);
            tensor(blk + "ffn_down.weight", n_ff, n_embd, 0.0f, 1.0f);
        }
    }

    const random_model_params & p;
    const int64_t    n_embd;
    const int64_t    n_ff;
    std::mt19937_64  rng;
    ggml_context_ptr ctx;
    gguf_context_ptr gguf;
};

} // namespace

llama_model_ptr_t make_random_model(const random_model_params & params) {
    const char * tmp = getenv("TMPDIR");
    std::string path = std::string(tmp ? tmp : "/tmp") + "/llama-duo-XXXXXX";
    const int fd = mkstemp(path.data());
    if (fd < 0) {
        throw std::runtime_error("cannot make a temporary file " + path);
    }
    FILE * file = fdopen(fd, "wb");
    fclose(file);

    writer(params).write(path);
    llama_model_params mparams = llama_model_default_params();
    llama_model * model = llama_model_load_from_file(path.c_str(), mparams);
    remove(path.c_str());
    if (!model) {
        throw std::runtime_error("llama.cpp does not load the random " + params.arch + " model");
    }
    return llama_model_ptr_t(model, llama_model_free);
}
