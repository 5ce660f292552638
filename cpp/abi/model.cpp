#include "model.h"

#include "engine-thread.h"
#include "handle-table.h"
#include "log.h"

#include "duo-interrupt.h"
#include "llama-model.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>

namespace duo::abi {

model_options model_options::read(options o) {
    model_options result = { "", llama_model_default_params() };

    const auto path = o.string("path");
    if (!path || path->empty() || path->find('\0') != std::string::npos) {
        throw o.error("path", "the path of a GGUF file");
    }
    result.path = *path;

    if (const auto n = o.integer("gpuLayers", -1, INT32_MAX)) {
        result.params.n_gpu_layers = int32_t(*n);
    }
    if (const auto use = o.boolean("useMmap")) {
        result.params.load_mode = *use ? LLAMA_LOAD_MODE_MMAP : LLAMA_LOAD_MODE_NONE;
    }
    result.params.vocab_only = o.boolean("vocabOnly").value_or(false);
    if (!o.boolean("weights").value_or(true)) {
        result.params.no_alloc  = true;
        result.params.load_mode = LLAMA_LOAD_MODE_NONE; // nothing is there to be mapped
    }
    o.finish();
    return result;
}

// llama.cpp reports a missing file and a wrong one alike, deep in its log.
static void check_is_gguf(const std::string & path) {
    namespace fs = std::filesystem;
    std::error_code ignored; // what cannot be looked at cannot be opened either, which says why
    const fs::file_type type = fs::status(fs::u8path(path), ignored).type();
    if (type == fs::file_type::fifo || type == fs::file_type::socket || type == fs::file_type::character) {
        throw job_error("model", "\"" + path + "\" is no file but a pipe or a device: a model is read at any place. Write it to a file first");
    }
    errno = 0;
    std::ifstream file(path, std::ios::binary);
    char magic[4] = {};
    if (file) {
        file.read(magic, sizeof(magic));
    }
    if (!file && errno) {
        throw job_error("model", "cannot read \"" + path + "\": " + strerror(errno));
    }
    if (memcmp(magic, "GGUF", sizeof(magic)) != 0) {
        throw job_error("model", "\"" + path + "\" is not a GGUF file: it does not begin with \"GGUF\"");
    }
}

// Calls fn(buf, size), which returns the whole length as snprintf does, with room enough.
template <class F> static std::string string_of(F && fn) {
    std::string s(256, '\0');
    int32_t n = fn(s.data(), s.size());
    if (n >= int32_t(s.size())) {
        s.resize(size_t(n) + 1);
        n = fn(s.data(), s.size());
    }
    s.resize(size_t(std::max(n, 0)));
    return s;
}

static json metadata_of(const llama_model * m) {
    json result = json::object();
    for (int32_t i = 0; i < llama_model_meta_count(m); i++) {
        const auto key = string_of([&](char * buf, size_t size) { return llama_model_meta_key_by_index(m, i, buf, size); });
        result[key]    = string_of([&](char * buf, size_t size) { return llama_model_meta_val_str_by_index(m, i, buf, size); });
    }
    return result;
}

static json token_or_null(llama_token token) {
    return token == LLAMA_TOKEN_NULL ? json() : json(token);
}

// Tokens that end a text.
static json end_tokens(const llama_vocab * vocab) {
    json result = json::array();
    for (llama_token t = 0; t < llama_vocab_n_tokens(vocab); t++) {
        if (llama_vocab_is_eog(vocab, t)) {
            result.push_back(t);
        }
    }
    return result;
}

static json infill_tokens(const llama_vocab * vocab) {
    return {
        { "prefix",     token_or_null(llama_vocab_fim_pre(vocab)) },
        { "suffix",     token_or_null(llama_vocab_fim_suf(vocab)) },
        { "middle",     token_or_null(llama_vocab_fim_mid(vocab)) },
        { "padding",    token_or_null(llama_vocab_fim_pad(vocab)) },
        { "repository", token_or_null(llama_vocab_fim_rep(vocab)) },
        { "file",       token_or_null(llama_vocab_fim_sep(vocab)) },
    };
}

static json describe(const model & m) {
    const llama_model *   ptr     = m.ptr.get();
    const llama_hparams & hparams = ptr->hparams;

    const json metadata = metadata_of(ptr);
    const auto template_text = llama_model_chat_template(ptr, nullptr);

    // with vocabOnly nothing about layers was read
    const uint32_t n_layer = m.params.vocab_only ? 0 : uint32_t(llama_model_n_layer(ptr));

    json heads    = json::array();
    json kv_heads = json::array();
    for (uint32_t il = 0; il < n_layer; il++) {
        heads.push_back(hparams.n_head(il));
        kv_heads.push_back(hparams.n_head_kv(il));
    }

    return {
        { "description",    string_of([&](char * buf, size_t size) { return llama_model_desc(ptr, buf, size); }) },
        { "architecture",   metadata.value("general.architecture", "") },
        { "path",           m.path },
        { "sizeBytes",      llama_model_size(ptr) },
        { "parameters",     llama_model_n_params(ptr) },
        { "layers",         n_layer },
        { "embeddingSize",  llama_model_n_embd(ptr) },
        { "contextSize",    llama_model_n_ctx_train(ptr) },
        { "vocabularySize", llama_vocab_n_tokens(m.vocab) },
        { "heads",          heads },
        { "kvHeads",        kv_heads },
        { "headSizeK",      n_layer ? hparams.n_embd_head_k(0) : 0 },
        { "headSizeV",      n_layer ? hparams.n_embd_head_v(0) : 0 },
        { "bosToken",       token_or_null(llama_vocab_bos(m.vocab)) },
        { "eosToken",       token_or_null(llama_vocab_eos(m.vocab)) },
        { "endTokens",      end_tokens(m.vocab) },
        { "infillTokens",   infill_tokens(m.vocab) },
        { "addBos",         llama_vocab_get_add_bos(m.vocab) },
        { "chatTemplate",   template_text ? json(template_text) : json() },
        { "metadata",       metadata },
    };
}

void require_weights(const model & m, const std::string & what) {
    if (!m.has_weights()) {
        throw job_error("context", std::string("the model was loaded with ") + (m.params.vocab_only ? "vocabOnly" : "weights: false") +
                ": it has no weights to " + what);
    }
}

// Of the tokenizers that leave out nothing of a text: others normalize it. A token's text has at least as many bytes as what it stands for, since bytes
// and spaces are written as longer characters there.
static size_t max_token_bytes_of(const llama_vocab * vocab) {
    const auto type = llama_vocab_type(vocab);
    if (type != LLAMA_VOCAB_TYPE_BPE && type != LLAMA_VOCAB_TYPE_SPM) {
        return SIZE_MAX;
    }
    size_t max = 1;
    for (llama_token t = 0; t < llama_vocab_n_tokens(vocab); t++) {
        if (llama_vocab_get_attr(vocab, t) & (LLAMA_TOKEN_ATTR_LSTRIP | LLAMA_TOKEN_ATTR_RSTRIP)) {
            return SIZE_MAX;  // it swallows the spaces beside it
        }
        max = std::max(max, strlen(llama_vocab_get_text(vocab, t)));
    }
    return max;
}

void load_model(job & j, const model_options & o) {
    check_is_gguf(o.path);
    start_backends();
    j.set_progress(0);

    llama_model_params params = o.params;
    params.progress_callback_user_data = &j;
    params.progress_callback = [](float progress, void * data) {
        auto & j = *static_cast<job *>(data);
        j.set_progress(progress);
        return !j.cancelled();
    };

    log_capture errors;
    llama_model_ptr ptr(llama_model_load_from_file(o.path.c_str(), params));

    static const bool armed = arm_exit_handler();
    (void) armed;

    j.throw_if_cancelled();
    if (!ptr) {
        throw job_error("model", "cannot load \"" + o.path + "\": " + errors.reason("llama.cpp gave no reason"));
    }

    const auto * vocab = llama_model_get_vocab(ptr.get());
    const auto   m     = std::make_shared<model>(model { {}, std::move(ptr), vocab, o.path, o.params, max_token_bytes_of(vocab) });

    json result = { { "model", 0 } };
    result.update(describe(*m));
    j.finish([&] {
        result["model"] = handles().add(m, j.owner);
        return result;
    });
}

void free_model(std::shared_ptr<model> m, std::shared_ptr<job> j) {
    run_alone(std::move(j), [m = std::move(m)](job & j) mutable {
        m.reset();
        j.finish([] { return json::object(); });
    });
}

std::vector<llama_token> tokenize(const model & m, const char * text, int32_t len, bool add_special, bool parse_special, const job * j) {
    std::optional<duo_interrupt> interrupt;
    if (j) {
        interrupt.emplace([j] { j->throw_if_cancelled(); });
    }
    // as many as there can be: one for each byte, and those that are added
    std::vector<llama_token> tokens(size_t(len) + 2);
    int32_t n = llama_tokenize(m.vocab, text, len, tokens.data(), int32_t(tokens.size()), add_special, parse_special);
    if (n < 0 && n != INT32_MIN) {
        tokens.resize(size_t(-n));
        n = llama_tokenize(m.vocab, text, len, tokens.data(), int32_t(tokens.size()), add_special, parse_special);
    }
    if (n < 0) {
        throw std::runtime_error("the text has more tokens than can be counted");
    }
    tokens.resize(size_t(n));
    return tokens;
}

std::string detokenize(const model & m, const llama_token * tokens, int32_t n_tokens, bool remove_special, bool render_special) {
    std::string text(size_t(n_tokens) * 8 + 16, '\0');
    int32_t n = llama_detokenize(m.vocab, tokens, n_tokens, text.data(), int32_t(text.size()), remove_special, render_special);
    if (n < 0) {
        text.resize(size_t(-n));
        n = llama_detokenize(m.vocab, tokens, n_tokens, text.data(), int32_t(text.size()), remove_special, render_special);
    }
    text.resize(size_t(std::max(n, 0)));
    return text;
}

void tokenize_long(job & j, const model & m, const std::string & text, bool add_special, bool parse_special) {
    const auto tokens = tokenize(m, text.data(), int32_t(text.size()), add_special, parse_special, &j);
    j.set_data(tokens);
    j.finish([&] { return json { { "tokens", tokens.size() } }; });
}

} // namespace duo::abi
