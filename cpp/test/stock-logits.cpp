// Prints a hash of the logits of random models in many settings without mixed heads. Uses llama.h alone, so it is built against the pristine and
// the patched llama.cpp alike (scripts/check-stock.mjs): the two must print the same.
//
//   stock-logits [HOST:PORT]    all layers are on the device of that RPC server
#include "random-model.h"

#include "ggml-backend.h"
#include "llama.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

struct setting {
    const char *          name;
    ggml_type             weights;
    ggml_type             kv;
    llama_flash_attn_type flash;
    bool                  unified;
};

uint64_t hash(uint64_t h, const float * x, size_t n) {
    for (size_t i = 0; i < n; ++i) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof(bits));
        h = (h ^ bits) * 1099511628211ull; // FNV-1a, a word at a time
    }
    return h;
}

ggml_backend_dev_t rpc_device(const char * endpoint) {
    using add_server = ggml_backend_reg_t (*)(const char *);
    ggml_backend_reg_t rpc = ggml_backend_reg_by_name("RPC");
    const auto add = rpc ? (add_server) ggml_backend_reg_get_proc_address(rpc, "ggml_backend_rpc_add_server") : nullptr;
    ggml_backend_reg_t server = add ? add(endpoint) : nullptr;
    if (!server || ggml_backend_reg_dev_count(server) == 0) {
        fprintf(stderr, "%s: no RPC server\n", endpoint);
        exit(1);
    }
    return ggml_backend_reg_dev_get(server, 0);
}

uint64_t run(const setting & s, ggml_backend_dev_t device) {
    random_model_params p;
    p.type = s.weights;
    ggml_backend_dev_t devices[] = { device, nullptr };
    llama_model_params model_params = llama_model_default_params();
    model_params.devices      = devices;
    model_params.n_gpu_layers = 99;
    model_params.load_mode    = LLAMA_LOAD_MODE_NONE;
    const auto model = make_random_model(p, device ? &model_params : nullptr);

    llama_context_params params = llama_context_default_params();
    params.n_ctx           = 1024;
    params.n_seq_max       = 2;
    params.flash_attn_type = s.flash;
    params.type_k          = s.kv;
    params.type_v          = s.kv;
    params.kv_unified      = s.unified;
    params.n_threads       = 2;
    params.n_threads_batch = 2;
    llama_context * ctx = llama_init_from_model(model.get(), params);
    if (!ctx) {
        fprintf(stderr, "%s: no context\n", s.name);
        exit(1);
    }
    uint64_t h = 14695981039346656037ull;
    std::vector<llama_token> tokens(200);
    for (size_t i = 0; i < tokens.size(); ++i) {
        tokens[i] = llama_token(i * 7919 % p.n_vocab);
    }
    // a prompt, then tokens one by one
    for (int n = int(tokens.size()), step = 0; step < 20; n = 1, ++step) {
        if (llama_decode(ctx, llama_batch_get_one(tokens.data(), n)) != 0) {
            fprintf(stderr, "%s: decoding failed\n", s.name);
            exit(1);
        }
        h = hash(h, llama_get_logits_ith(ctx, -1), p.n_vocab);
        tokens[0] = llama_token(h % p.n_vocab);
    }
    llama_free(ctx);
    return h;
}

} // namespace

int main(int argc, char ** argv) {
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    ggml_backend_dev_t device = argc > 1 ? rpc_device(argv[1]) : nullptr;
    for (const setting & s : {
            setting { "f32 weights, f16 KV, flash attention auto", GGML_TYPE_F32,  GGML_TYPE_F16,  LLAMA_FLASH_ATTN_TYPE_AUTO,     false },
            setting { "f32 weights, f32 KV, flash attention off",  GGML_TYPE_F32,  GGML_TYPE_F32,  LLAMA_FLASH_ATTN_TYPE_DISABLED, false },
            setting { "q8_0 weights, q8_0 KV",                     GGML_TYPE_Q8_0, GGML_TYPE_Q8_0, LLAMA_FLASH_ATTN_TYPE_ENABLED,  false },
            setting { "q4_0 weights, q4_0 KV",                     GGML_TYPE_Q4_0, GGML_TYPE_Q4_0, LLAMA_FLASH_ATTN_TYPE_ENABLED,  false },
            setting { "q8_0 weights, f16 KV, unified",             GGML_TYPE_Q8_0, GGML_TYPE_F16,  LLAMA_FLASH_ATTN_TYPE_AUTO,     true  } }) {
        printf("%016llx  %s\n", (unsigned long long) run(s, device), s.name);
    }
    return 0;
}
