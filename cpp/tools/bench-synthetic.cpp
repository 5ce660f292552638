#include "bench-synthetic.h"

#include "shapes.h"
#include "synthetic-cache.h"

#include "common.h"
#include "llama-context.h"
#include "llama-kv-cache-iswa.h"
#include "llama-kv-cache.h"
#include "llama-memory-hybrid-duo.h"
#include "llama-memory-hybrid.h"
#include "llama-model.h"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <stdexcept>
#include <system_error>

namespace {

constexpr int N_CTX = 1 << 24; // tokens that the models say they were trained for

ggml_type weight_type(const std::string & name) {
    for (const ggml_type type : { GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, GGML_TYPE_F16 }) {
        if (name == ggml_type_name(type)) {
            return type;
        }
    }
    throw std::invalid_argument(string_format("--shape has weights of type \"%s\"; expected q8_0, q4_0 or f16", name.c_str()));
}

// --- files that go with the process ---

std::filesystem::path              folder;
std::vector<std::filesystem::path> files;

// Calls nothing that a signal's handler may not: paths are there already.
void remove_files() {
    std::error_code ignored;
    for (const auto & file : files) {
        std::filesystem::remove(file, ignored);
    }
    std::filesystem::remove(folder, ignored);
}

void remove_files_and_die(int number) {
    remove_files();
    signal(number, SIG_DFL);
    raise(number);
}

void make_folder() {
    std::error_code error;
    folder = temporary_path("llama-duo-bench-", error);
    if (error || !std::filesystem::create_directory(folder, error)) {
        const char * tmp = getenv("TMPDIR");
        throw std::runtime_error(string_format("cannot make a temporary folder; the variable TMPDIR says where, and is \"%s\"", tmp ? tmp : ""));
    }
    atexit(remove_files);
    const int signals[] = {
        SIGINT, SIGTERM, SIGABRT,
#ifdef SIGHUP
        SIGHUP,
#endif
#ifdef SIGPIPE
        SIGPIPE,
#endif
#ifdef SIGQUIT
        SIGQUIT,
#endif
    };
    for (const int number : signals) {
        if (signal(number, remove_files_and_die) == SIG_IGN) {
            signal(number, SIG_IGN); // as nohup wants it
        }
    }
}

} // namespace

void bench_models::add(const std::string & list) {
    for (const std::string & item : string_split<std::string>(list, ',')) {
        const size_t colon = item.find(':');
        const shape added = { item.substr(0, colon), colon == std::string::npos ? ggml_type_name(GGML_TYPE_Q8_0) : item.substr(colon + 1) };
        shape_of(added.name);
        weight_type(added.type);
        shapes.push_back(added);
    }
}

std::vector<std::string> bench_models::paths() const {
    if (folder.empty() && !empty()) {
        make_folder();
    }
    std::vector<std::string> paths;
    for (const shape & s : shapes) {
        paths.push_back((folder / (s.name + "-" + s.type + ".gguf")).string());
    }
    return paths;
}

void bench_models::write() const {
    const std::vector<std::string> all = paths();
    files.assign(all.begin(), all.end());
    for (size_t i = 0; i < shapes.size(); ++i) {
        bench_shape params = shape_of(shapes[i].name);
        params.type  = weight_type(shapes[i].type);
        params.n_ctx = N_CTX;
        params.gates = periodic_gates(params);
        write_random_model(params, all[i]);
    }
}

std::string bench_cannot_fill(const llama_context * ctx) {
    llama_memory_i * memory = ctx->get_memory();
    if (!memory) {
        return "a model that has no cache";
    }
    if (ctx->get_model().hparams.is_mla()) {
        return "a cache of latent attention";
    }
    const bool known = duo_cache_in(memory) || dynamic_cast<llama_kv_cache *>(memory) || dynamic_cast<llama_kv_cache_iswa *>(memory) || dynamic_cast<llama_memory_hybrid *>(memory);
    return known ? "" : "the cache of the architecture " + ctx->get_model().arch_name();
}

void bench_fill(llama_context * ctx, int depth) {
    fill_rows(ctx);
    mark_held(ctx, depth);
}

uint64_t bench_weights_read(const llama_model * model) {
    std::map<std::string, const ggml_tensor *> tensors; // one that stands for two is there once
    for (const auto & [name, tensor] : model->tensors_by_name) {
        tensors[name] = tensor;
    }
    const bool tied = tensors.find("output.weight") == tensors.end();
    const double experts_used = model->hparams.n_expert ? double(model->hparams.n_expert_used_max()) / model->hparams.n_expert : 1.0;
    double bytes = 0;
    for (const auto & [name, tensor] : tensors) {
        const bool rows = (name == "token_embd.weight" && !tied) || name == "per_layer_token_embd.weight";
        bytes += double(ggml_nbytes(tensor)) * (rows ? 1.0 / double(tensor->ne[1]) : name.find("_exps") != std::string::npos ? experts_used : 1.0);
    }
    return uint64_t(bytes);
}

uint64_t bench_rows_read(const llama_context * ctx, ggml_type type_k, ggml_type type_v, int depth) { return work_of(ctx, type_k, type_v, depth).bytes; }
