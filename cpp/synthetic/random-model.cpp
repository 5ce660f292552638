#include "random-model.h"

#include "ggml-cpp.h"
#include "gguf.h"
#include "llama.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <random>
#include <sstream>
#include <stdexcept>
#include <utility>
#include <vector>

namespace {

struct tensor_spec {
    std::string          name;
    std::vector<int64_t> ne;
};

// Values of a tensor's elements: uniform, which is quick to draw for a large model.
struct distribution {
    float mean;
    float scale; // the standard deviation, times the square root of a matrix's row length, so that products keep their size
};

bool has(const std::string & text, const char * part) { return text.find(part) != std::string::npos; }

distribution distribution_of(const tensor_spec & t) {
    if ((has(t.name, "norm") && !has(t.name, ".bias")) || has(t.name, "rope_f") || has(t.name, "output_scale") || has(t.name, "correct_scale")) {
        return { 1.0f, 0.1f };
    }
    if (has(t.name, "ssm_a") && !has(t.name, "ssm_alpha")) {
        return { -0.5f, 0.1f }; // what a state keeps from token to token is its exponential
    }
    if (t.ne.size() == 1) {
        return { 0.0f, 0.1f };
    }
    if (has(t.name, "token_embd") || has(t.name, "position_embd")) {
        return { 0.0f, std::sqrt(float(t.ne[0])) };
    }
    if (has(t.name, "attn_q") || has(t.name, "attn_k.")) {
        return { 0.0f, 1.5f }; // scores of some spread: attention that looks somewhere
    }
    return { 0.0f, 1.0f };
}

class writer {
public:
    explicit writer(const random_model_params & params) : p(params), rng(params.seed), noise(params.seed + 1) {
        p.head_size_v = p.head_size_v ? p.head_size_v : p.head_size;
        p.n_rot       = p.n_rot  ? p.n_rot  : p.head_size;
        p.n_embd      = p.n_embd ? p.n_embd : p.n_head * p.head_size;
        p.n_ff        = p.n_ff   ? p.n_ff   : 2 * p.n_embd;

        gguf.reset(gguf_init_empty());
        metadata();

        std::vector<tensor_spec> specs;
        read_tensors(p.tensors, "", 0, specs);
        for (int64_t il = 0; il < p.n_layer; ++il) {
            read_tensors(p.block, "blk." + std::to_string(il) + ".", il, specs);
        }
        size_t bytes = 0;
        for (const tensor_spec & t : specs) {
            bytes += ggml_tensor_overhead() + GGML_MEM_ALIGN + (p.pooled ? 0 : row_size(t) * n_rows(t));
        }
        ctx.reset(ggml_init({ std::max<size_t>(bytes, 1), nullptr, p.pooled }));
        for (const tensor_spec & t : specs) {
            tensor(t);
        }
    }

    gguf_context * context() { return gguf.get(); }

    void write(const std::string & path) {
        std::unique_ptr<FILE, int (*)(FILE *)> file(fopen(path.c_str(), "wb"), fclose);
        bool good = file && gguf_write_to_file_ptr(gguf.get(), file.get(), /*only_meta =*/ p.pooled);
        for (size_t i = 0; good && i < pooled.size(); ++i) {
            good = write_pooled(pooled[i], file.get());
        }
        if (!good || fclose(file.release()) != 0) {
            throw std::runtime_error("cannot write " + path);
        }
    }

private:
    // --- words ---

    int64_t size(char letter, int64_t il) const {
        switch (letter) {
            case 'E': return p.n_embd;
            case 'F': return p.n_ff;
            case 'V': return p.n_vocab;
            case 'C': return p.n_ctx;
            case 'H': return p.n_head_layer.empty() ? p.n_head : p.n_head_layer.at(il);
            case 'G': return p.n_head_kv_layer.empty() ? p.n_head_kv : p.n_head_kv_layer.at(il);
            case 'D': return p.head_size_layer.empty() ? p.head_size   : p.head_size_layer.at(il);
            case 'W': return p.head_size_layer.empty() ? p.head_size_v : p.head_size_layer.at(il);
            case 'L': return p.n_layer;
        }
        throw std::runtime_error(std::string("no size is called ") + letter);
    }

    // A sum of products, as in HD+2GD.
    int64_t evaluate(const std::string & text, int64_t il) const {
        int64_t sum = 0, product = 1;
        for (size_t i = 0; i < text.size();) {
            if (isdigit(text[i])) {
                size_t used = 0;
                product *= std::stoll(text.substr(i), &used);
                i += used;
            } else if (text[i] == '+') {
                sum += product;
                product = 1;
                ++i;
            } else {
                product *= size(text[i++], il);
            }
        }
        return sum + product;
    }

    void read_tensors(const std::string & text, const std::string & prefix, int64_t il, std::vector<tensor_spec> & specs) const {
        std::stringstream list(text);
        for (std::string item; std::getline(list, item, ';');) {
            std::stringstream words(item);
            tensor_spec t;
            if (!(words >> t.name)) {
                continue;
            }
            if (t.name.find('?') == 1) {
                if (islower(t.name[0]) ? p.kinds.at(il) != t.name[0] : size(t.name[0], il) == 0) {
                    continue;
                }
                t.name.erase(0, 2);
            }
            if (t.name.back() == '.') {
                t.name.pop_back();
            } else if (t.name.find('.') == std::string::npos) {
                t.name += ".weight";
            }
            t.name = prefix + t.name;
            for (std::string word; words >> word;) {
                t.ne.push_back(evaluate(word, il));
            }
            if (std::find(t.ne.begin(), t.ne.end(), 0) == t.ne.end()) { // what a layer without KV heads has none of
                specs.push_back(t);
            }
        }
    }

    // --- metadata ---

    std::string key(const std::string & name) const { return p.arch + "." + name; }

    void metadata() {
        auto u32 = [&](const char * name, int64_t x) { gguf_set_val_u32(gguf.get(), key(name).c_str(), uint32_t(x)); };
        auto per_layer = [&](const char * name, int64_t x, const std::vector<int64_t> & layers) {
            if (layers.empty()) {
                u32(name, x);
            } else {
                const std::vector<uint32_t> values(layers.begin(), layers.end());
                gguf_set_arr_data(gguf.get(), key(name).c_str(), GGUF_TYPE_UINT32, values.data(), values.size());
            }
        };
        gguf_set_val_str(gguf.get(), "general.architecture", p.arch.c_str());
        if (p.words) {
            vocabulary();
        } else {
            gguf_set_val_str(gguf.get(), "tokenizer.ggml.model", "none");
        }
        u32("vocab_size", p.n_vocab);
        u32("context_length", p.n_ctx);
        u32("embedding_length", p.n_embd);
        u32("block_count", p.n_layer);
        u32("feed_forward_length", p.n_ff);
        per_layer("attention.head_count", p.n_head, p.n_head_layer);
        per_layer("attention.head_count_kv", p.n_head_kv, p.n_head_kv_layer);
        u32("attention.key_length", p.head_size);
        u32("attention.value_length", p.head_size_v);
        u32("rope.dimension_count", p.n_rot);
        for (const char * name : { "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon" }) {
            gguf_set_val_f32(gguf.get(), key(name).c_str(), 1e-5f);
        }
        gguf_set_val_f32(gguf.get(), key("rope.freq_base").c_str(), 10000.0f);

        if (!p.gates.empty()) {
            gguf_set_val_str(gguf.get(), "llama_duo.pattern", p.gates.c_str());
        }
        std::stringstream words(p.metadata);
        for (std::string word; words >> word;) {
            const size_t equals = word.find('=');
            const std::string name = word.substr(0, equals);
            set(name[0] == '.' ? name.substr(1) : key(name), word.substr(equals + 1));
        }
    }

    // SentencePiece's: three tokens of no text, the 256 bytes, and a word for each token that is left.
    void vocabulary() {
        std::vector<std::string> tokens = { "<unk>", "<s>", "</s>" };
        std::vector<int32_t>     types  = { LLAMA_TOKEN_TYPE_UNKNOWN, LLAMA_TOKEN_TYPE_CONTROL, LLAMA_TOKEN_TYPE_CONTROL };
        for (int byte = 0; byte < 256; ++byte) {
            char text[8];
            snprintf(text, sizeof(text), "<0x%02X>", byte);
            tokens.push_back(text);
            types.push_back(LLAMA_TOKEN_TYPE_BYTE);
        }
        if (p.n_vocab < int64_t(tokens.size())) {
            throw std::runtime_error("a vocabulary has " + std::to_string(tokens.size()) + " tokens at least");
        }
        while (int64_t(tokens.size()) < p.n_vocab) {
            tokens.push_back("\xe2\x96\x81w" + std::to_string(tokens.size())); // SentencePiece's space
            types.push_back(LLAMA_TOKEN_TYPE_NORMAL);
        }
        std::vector<const char *> texts;
        for (const std::string & token : tokens) {
            texts.push_back(token.c_str());
        }
        const std::vector<float> scores(tokens.size(), 0.0f);
        gguf_set_val_str(gguf.get(), "tokenizer.ggml.model", "llama");
        gguf_set_arr_str(gguf.get(), "tokenizer.ggml.tokens", texts.data(), texts.size());
        gguf_set_arr_data(gguf.get(), "tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, scores.data(), scores.size());
        gguf_set_arr_data(gguf.get(), "tokenizer.ggml.token_type", GGUF_TYPE_INT32, types.data(), types.size());
        gguf_set_val_u32(gguf.get(), "tokenizer.ggml.unknown_token_id", 0);
        gguf_set_val_u32(gguf.get(), "tokenizer.ggml.bos_token_id", 1);
        gguf_set_val_u32(gguf.get(), "tokenizer.ggml.eos_token_id", 2);
    }

    void set(const std::string & full_name, const std::string & value) {
        const char * name = full_name.c_str();
        if (value == "true" || value == "false") {
            gguf_set_val_bool(gguf.get(), name, value == "true");
        } else if (value.find(',') != std::string::npos) {
            std::vector<uint32_t> values;
            std::vector<float>    fractions;
            std::stringstream list(value);
            for (std::string item; std::getline(list, item, ',');) {
                item.find('.') == std::string::npos ? values.push_back(uint32_t(evaluate(item, 0))) : fractions.push_back(std::stof(item));
            }
            if (fractions.empty()) {
                gguf_set_arr_data(gguf.get(), name, GGUF_TYPE_UINT32, values.data(), values.size());
            } else {
                gguf_set_arr_data(gguf.get(), name, GGUF_TYPE_FLOAT32, fractions.data(), fractions.size());
            }
        } else if (value.find('.') != std::string::npos) {
            gguf_set_val_f32(gguf.get(), name, std::stof(value));
        } else if (isupper(value[0]) || isdigit(value[0])) {
            gguf_set_val_u32(gguf.get(), name, uint32_t(evaluate(value, 0)));
        } else {
            gguf_set_val_str(gguf.get(), name, value.c_str());
        }
    }

    // --- tensors ---

    // Only what matrices are multiplied by, and rows that are whole blocks.
    ggml_type type_of(const tensor_spec & t) const {
        const bool matrix = t.ne.size() > 1 && !has(t.name, ".bias") && !has(t.name, "ffn_gate_inp") && t.ne[0] % ggml_blck_size(p.type) == 0;
        return matrix ? p.type : GGML_TYPE_F32;
    }

    size_t row_size(const tensor_spec & t) const { return ggml_row_size(type_of(t), t.ne[0]); }

    static int64_t n_rows(const tensor_spec & t) {
        int64_t n = 1;
        for (size_t i = 1; i < t.ne.size(); ++i) {
            n *= t.ne[i];
        }
        return n;
    }

    void tensor(const tensor_spec & spec) {
        ggml_tensor * t = ggml_new_tensor(ctx.get(), type_of(spec), int(spec.ne.size()), spec.ne.data());
        ggml_set_name(t, spec.name.c_str());
        if (p.pooled) {
            pooled.push_back(spec);
        } else {
            draw(spec, n_rows(spec), t->data);
        }
        gguf_add_tensor(gguf.get(), t);
    }

    void draw(const tensor_spec & spec, int64_t n_rows, void * to) {
        const distribution d = distribution_of(spec);
        const float share  = has(spec.name, "attn_output.") || has(spec.name, "ffn_down") || has(spec.name, "ssm_out") || has(spec.name, "out_proj") ? p.residual : 1.0f;
        const float spread = share * d.scale / std::sqrt(spec.ne.size() > 1 ? float(spec.ne[0]) : 1.0f) * std::sqrt(3.0f); // of variance 1 over [-sqrt 3, sqrt 3]
        const auto  uniform = [](std::mt19937_64 & rng) { return float(rng() >> 40) * 0x1p-23f - 1.0f; };
        std::vector<float> data(spec.ne[0] * n_rows);
        for (float & x : data) {
            x = d.mean + spread * uniform(rng);
        }
        for (size_t i = 0; p.noise != 0.0f && i < data.size(); ++i) {
            data[i] += p.noise * spread * uniform(noise);
        }
        if (has(spec.name, "nextn.eh_proj")) { // what predicts ahead takes the last token as the model does, and little of what that made of the tokens before
            for (int64_t i = 0; i < n_rows; ++i) {
                for (int64_t j = 0; j < spec.ne[0]; ++j) {
                    data[i * spec.ne[0] + j] = 0.1f * data[i * spec.ne[0] + j] + (i == j ? 1.0f : 0.0f);
                }
            }
        }
        if (type_of(spec) == GGML_TYPE_F32) {
            memcpy(to, data.data(), data.size() * sizeof(float));
        } else {
            ggml_quantize_chunk(type_of(spec), data.data(), to, 0, n_rows, spec.ne[0], nullptr);
        }
    }

    // A matrix's rows begin at random blocks of the pool of all those that are distributed alike.
    bool write_pooled(const tensor_spec & spec, FILE * file) {
        const size_t row = row_size(spec), block = ggml_type_size(type_of(spec));
        const int64_t n_pool = std::min<int64_t>(n_rows(spec), 1024);
        std::vector<uint8_t> own, & pool = spec.ne.size() > 1 && type_of(spec) == p.type ? pools[{ spec.ne[0], distribution_of(spec).scale }] : own;
        if (pool.size() < row * n_pool) {
            pool.resize(row * n_pool);
            draw(spec, n_pool, pool.data());
        }
        std::vector<uint8_t> rows;
        const auto flush = [&] {
            const bool good = fwrite(rows.data(), 1, rows.size(), file) == rows.size();
            rows.clear();
            return good;
        };
        for (int64_t i = 0; i < n_rows(spec); ++i) {
            const uint8_t * from = pool.data() + rng() % ((pool.size() - row) / block + 1) * block;
            rows.insert(rows.end(), from, from + row);
            if (rows.size() > (4 << 20) && !flush()) {
                return false;
            }
        }
        const size_t size = row * n_rows(spec);
        rows.resize(rows.size() + GGML_PAD(size, gguf_get_alignment(gguf.get())) - size);
        return flush();
    }

    random_model_params p;
    std::mt19937_64     rng;
    std::mt19937_64     noise;
    ggml_context_ptr    ctx;
    gguf_context_ptr    gguf;

    std::vector<tensor_spec> pooled; // not in memory: written from the pools
    std::map<std::pair<int64_t, float>, std::vector<uint8_t>> pools; // by row length and distribution
};

} // namespace

static llama_model_ptr_t checked(llama_model * model, const std::string & what) {
    if (!model) {
        throw std::runtime_error("llama.cpp does not load " + what);
    }
    return llama_model_ptr_t(model, llama_model_free);
}

std::string temporary_path(const std::string & prefix, std::error_code & error) {
    std::random_device random;
    char name[17];
    snprintf(name, sizeof(name), "%08x%08x", random(), random());
    return (std::filesystem::temp_directory_path(error) / (prefix + name)).string();
}

random_model_file::random_model_file(const random_model_params & params) {
    std::error_code error;
    name = temporary_path("llama-duo-", error);
    if (error) {
        throw std::runtime_error("no folder for temporary files: " + error.message());
    }
    writer(params).write(name);
}

random_model_file::~random_model_file() { remove(name.c_str()); }

llama_model_ptr_t random_model_file::load(const llama_model_params * how) const {
    return checked(llama_model_load_from_file(name.c_str(), how ? *how : llama_model_default_params()), "the random model " + name);
}

void write_random_model(const random_model_params & params, const std::string & path) { writer(params).write(path); }

llama_model_ptr_t make_random_model(const random_model_params & params, const llama_model_params * how) { return random_model_file(params).load(how); }

llama_model_ptr_t make_hollow_model(random_model_params params) {
    params.tensors = params.block = "";
    writer w(params);
    return checked(llama_model_init_from_user(w.context(), [](ggml_tensor *, void *) {}, nullptr, llama_model_default_params()), "a hollow " + params.arch + " model");
}
