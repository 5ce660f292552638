#include "model.h"

#include "engine-thread.h"
#include "handle-table.h"
#include "log.h"

#include "duo-config.h"
#include "duo-interrupt.h"
#include "gguf.h"
#include "llama-model.h"

#include <cerrno>
#include <cfloat>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>

namespace duo::abi {

static void read_devices(options & o, model_options & result) {
    const json * names = o.value("devices");
    if (!names) {
        return;
    }
    result.device_names.emplace();
    for (const json & name : names->is_array() ? *names : json::array({ nullptr })) {
        if (!name.is_string()) {
            throw o.error("devices", "an array of names of devices, empty for the CPU alone");
        }
        result.device_names->push_back(name);
    }
}

static void read_tensor_split(options & o, model_options & result) {
    const json * shares = o.value("tensorSplit");
    if (!shares) {
        return;
    }
    const std::string expected = "an array of at most " + std::to_string(llama_max_devices()) + " shares, each a number of at least 0 and one of them above it";
    double sum = 0;
    if (!shares->is_array() || shares->size() > llama_max_devices()) {
        throw o.error("tensorSplit", expected);
    }
    for (const json & share : *shares) {
        if (!share.is_number() || !(share.get<double>() >= 0 && share.get<double>() <= FLT_MAX)) {
            throw o.error("tensorSplit", expected);
        }
        sum += share.get<double>();
        result.tensor_split.push_back(float(share.get<double>()));
    }
    if (sum == 0) {
        throw o.error("tensorSplit", expected);
    }
    result.tensor_split.resize(llama_max_devices());
}

// Metadata that the file is to be read with instead of its own.
static void read_overrides(options & o, model_options & result) {
    const auto values = o.object("overrides");
    if (!values) {
        return;
    }
    for (const auto & [key, value] : values->all().items()) {
        llama_model_kv_override entry = {};
        const auto copy = [&](char (&to)[sizeof(entry.key)], const std::string & from, const char * what) {
            if (from.empty() || from.size() >= sizeof(to) || from.find('\0') != std::string::npos) {
                throw values->error(key.c_str(), std::string(what) + " of 1 to " + std::to_string(sizeof(to) - 1) + " bytes");
            }
            memcpy(to, from.c_str(), from.size() + 1);
        };
        copy(entry.key, key, "a key");
        if (value.is_boolean()) {
            entry.tag      = LLAMA_KV_OVERRIDE_TYPE_BOOL;
            entry.val_bool = value.get<bool>();
        } else if (value.is_number_integer()) {
            entry.tag     = LLAMA_KV_OVERRIDE_TYPE_INT;
            entry.val_i64 = value.get<int64_t>();
        } else if (value.is_number()) {
            entry.tag     = LLAMA_KV_OVERRIDE_TYPE_FLOAT;
            entry.val_f64 = value.get<double>();
        } else if (value.is_string()) {
            entry.tag = LLAMA_KV_OVERRIDE_TYPE_STR;
            copy(entry.val_str, value.get<std::string>(), "a text");
        } else {
            throw values->error(key.c_str(), "a boolean, a number or a string, as the key's type is");
        }
        result.overrides.push_back(entry);
    }
    result.overrides.push_back({}); // an empty key ends the list
}

model_options model_options::read(options o) {
    model_options result;
    result.params = llama_model_default_params();

    const auto path = o.string("path");
    if (!path || path->empty() || path->find('\0') != std::string::npos) {
        throw o.error("path", "the path of a GGUF file");
    }
    result.path = *path;

    if (const auto n = o.integer("gpuLayers", -1, INT32_MAX)) {
        result.params.n_gpu_layers = int32_t(*n);
    }
    const auto mmap  = o.boolean("useMmap");
    const bool mlock = o.boolean("useMlock").value_or(false);
    if (mmap || mlock) {
        result.params.load_mode = mmap.value_or(true) ? mlock ? LLAMA_LOAD_MODE_MMAP_MLOCK : LLAMA_LOAD_MODE_MMAP
                                                      : mlock ? LLAMA_LOAD_MODE_MLOCK      : LLAMA_LOAD_MODE_NONE;
    }
    result.params.check_tensors = o.boolean("checkTensors").value_or(false);
    if (const auto mode = o.one_of("splitMode", { "none", "layer", "row", "tensor" })) {
        result.params.split_mode = *mode == "none" ? LLAMA_SPLIT_MODE_NONE : *mode == "layer" ? LLAMA_SPLIT_MODE_LAYER
                                 : *mode == "row"  ? LLAMA_SPLIT_MODE_ROW  : LLAMA_SPLIT_MODE_TENSOR;
    }
    result.params.main_gpu = int32_t(o.integer("mainGpu", 0, INT32_MAX).value_or(result.params.main_gpu));
    read_devices(o, result);
    read_tensor_split(o, result);
    read_overrides(o, result);
    result.params.vocab_only = o.boolean("vocabOnly").value_or(false);
    if (!o.boolean("weights").value_or(true)) {
        result.params.no_alloc  = true;
        result.params.load_mode = LLAMA_LOAD_MODE_NONE; // nothing is there to be mapped
    }
    o.finish();
    return result;
}

void model_options::find_devices() {
    if (!device_names) {
        return;
    }
    std::map<std::string, ggml_backend_dev_t> there;
    std::string known;
    for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
        ggml_backend_dev_t dev = ggml_backend_dev_get(i);
        if (ggml_backend_dev_type(dev) != GGML_BACKEND_DEVICE_TYPE_CPU) {
            known += (known.empty() ? "" : ", ") + std::string(ggml_backend_dev_name(dev));
            there[ggml_backend_dev_name(dev)] = dev;
        }
    }
    for (const std::string & name : *device_names) {
        if (!there.count(name)) {
            throw option_error("devices", name, known.empty() ? "no name, for there is no other device than the CPU" : "names of devices; there are " + known);
        }
        devices.push_back(there[name]);
    }
    devices.push_back(nullptr); // ends the list
}

static json value_of(const llama_model_kv_override & entry) {
    switch (entry.tag) {
        case LLAMA_KV_OVERRIDE_TYPE_BOOL:  return entry.val_bool;
        case LLAMA_KV_OVERRIDE_TYPE_INT:   return entry.val_i64;
        case LLAMA_KV_OVERRIDE_TYPE_FLOAT: return entry.val_f64;
        default:                           return entry.val_str;
    }
}

void model_options::fit_overrides() {
    if (overrides.empty()) {
        return;
    }
    const gguf_context_ptr file(gguf_init_from_file(path.c_str(), { /*no_alloc =*/ true, nullptr }));
    if (!file) {
        return; // loading says why
    }
    for (llama_model_kv_override & entry : overrides) {
        const int64_t id = gguf_find_key(file.get(), entry.key);
        if (id < 0) {
            continue;
        }
        const auto expect = [&](llama_model_kv_override_type tag, const char * expected) {
            if (entry.tag != tag) {
                throw option_error(std::string("overrides.") + entry.key, value_of(entry), std::string(expected) + ", as in the model's file");
            }
        };
        switch (gguf_get_kv_type(file.get(), id)) {
            case GGUF_TYPE_BOOL:   expect(LLAMA_KV_OVERRIDE_TYPE_BOOL, "a boolean"); break;
            case GGUF_TYPE_STRING: expect(LLAMA_KV_OVERRIDE_TYPE_STR,  "a string");  break;
            case GGUF_TYPE_ARRAY:  throw option_error(std::string("overrides.") + entry.key, value_of(entry), "no key of an array");
            case GGUF_TYPE_FLOAT32:
            case GGUF_TYPE_FLOAT64:
                if (entry.tag == LLAMA_KV_OVERRIDE_TYPE_INT) { // JSON does not tell 1e6 from 1000000
                    entry.val_f64 = double(entry.val_i64);
                    entry.tag     = LLAMA_KV_OVERRIDE_TYPE_FLOAT;
                }
                expect(LLAMA_KV_OVERRIDE_TYPE_FLOAT, "a number");
                break;
            default: expect(LLAMA_KV_OVERRIDE_TYPE_INT, "an integer");
        }
    }
}

llama_model_params model_options::use() const {
    llama_model_params p = params;
    p.devices      = devices.empty() ? nullptr : const_cast<ggml_backend_dev_t *>(devices.data());
    p.tensor_split = tensor_split.empty() ? nullptr : tensor_split.data();
    p.kv_overrides = overrides.empty() ? nullptr : overrides.data();
    return p;
}

llama_model_params model_options::use_weightless() const {
    llama_model_params p = use();
    p.no_alloc  = true;
    p.load_mode = LLAMA_LOAD_MODE_NONE; // nothing is there to be mapped
    return p;
}

// llama.cpp reports a missing file and a wrong one alike, deep in its log.
void check_is_gguf(const std::string & path) {
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
    const uint32_t n_layer = m.options.params.vocab_only ? 0 : uint32_t(llama_model_n_layer(ptr));

    json heads    = json::array();
    json kv_heads = json::array();
    for (uint32_t il = 0; il < n_layer; il++) {
        const bool attends = duo_attends(*ptr, il);
        heads.push_back(attends ? hparams.n_head(il) : 0);
        kv_heads.push_back(attends ? hparams.n_head_kv(il) : 0);
    }
    const auto gated = n_layer ? duo_gated_heads(*ptr) : std::vector<int32_t>();

    return {
        { "description",    string_of([&](char * buf, size_t size) { return llama_model_desc(ptr, buf, size); }) },
        { "architecture",   metadata.value("general.architecture", "") },
        { "path",           m.options.path },
        { "sizeBytes",      llama_model_size(ptr) },
        { "parameters",     llama_model_n_params(ptr) },
        { "layers",         n_layer },
        { "embeddingSize",  llama_model_n_embd(ptr) },
        { "contextSize",    llama_model_n_ctx_train(ptr) },
        { "vocabularySize", llama_vocab_n_tokens(m.vocab) },
        { "heads",          heads },
        { "kvHeads",        kv_heads },
        { "gatedHeads",     gated },
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
        throw job_error("context", std::string("the model was loaded with ") + (m.options.params.vocab_only ? "vocabOnly" : "weights: false") +
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

void load_model(job & j, model_options o) {
    check_is_gguf(o.path);
    start_backends();
    o.find_devices();
    o.fit_overrides();
    j.set_progress(0);

    llama_model_params params = o.use();
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
    const auto   m     = std::make_shared<model>(model { {}, std::move(ptr), vocab, o, max_token_bytes_of(vocab) });

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
