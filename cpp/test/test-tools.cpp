// What llama.cpp's tools do with mixed heads: fitting a context into a device's memory, reusing prompts, and options that they cannot honour.
#include "check.h"
#include "contexts.h"
#include "decode.h"
#include "fake-device.h"
#include "random-model.h"

#include "arg.h"
#include "common.h"
#include "duo-report.h"
#include "fit.h"
#include "log.h"
#include "llama.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

int llama_perplexity(int argc, char ** argv);

namespace {

// -fit sees what mixed heads save: a context that stock has to shorten stays whole, and what is said to be needed is needed.
void test_fit() {
    random_model_params p;
    p.n_layer = 4;
    p.n_ctx   = 131072;
    const random_model_file file(p);
    fake_device device("device", true);
    ggml_backend_dev_t devices[] = { device.device(), nullptr };

    llama_model_params mparams = llama_model_default_params();
    mparams.devices = devices;
    const auto model = file.load();
    const std::string gates = random_gates(model.get(), fresh_seed());

    auto cparams_of = [&](bool duo) {
        llama_context_params params = llama_context_default_params();
        params.n_ctx = 0; // as much as fits
        params.duo.enabled  = duo;
        params.duo.gates    = gates.c_str();
        params.duo.sparsity = 0.5f;
        return params;
    };
    auto needed = [&](const llama_context_params & params) {
        std::vector<ggml_backend_dev_t> devs;
        uint32_t n_gpu_layers, n_ctx_train, n_expert;
        const auto memory = common_get_device_memory_data(file.path().c_str(), &mparams, &params, devs, n_gpu_layers, n_ctx_train, n_expert, GGML_LOG_LEVEL_ERROR);
        return memory.at(0); // the device's
    };
    const auto stock = needed(cparams_of(false)), mixed = needed(cparams_of(true));
    const duo_kv_size size = duo_kv_size_for(model.get(), cparams_of(true));
    CHECK(stock.context >= size.full_bytes && stock.context < size.full_bytes + 65536);
    CHECK(mixed.context >= size.total_bytes && mixed.context < size.total_bytes + 65536);
    CHECK(mixed.context < 0.6 * stock.context);

    // room for what mixed heads need and no more
    const size_t margin = 1 << 20;
    device.free_bytes = mixed.model + mixed.context + mixed.compute + margin;
    auto fitted = [&](bool duo) {
        llama_model_params   m = mparams;
        llama_context_params c = cparams_of(duo);
        std::vector<float> split(llama_max_devices());
        std::vector<llama_model_tensor_buft_override> overrides(llama_max_tensor_buft_overrides());
        std::vector<size_t> margins(llama_max_devices(), margin);
        CHECK_EQ(common_fit_params(file.path().c_str(), &m, &c, split.data(), overrides.data(), margins.data(), 4096, nullptr, GGML_LOG_LEVEL_ERROR),
                COMMON_PARAMS_FIT_STATUS_SUCCESS);
        return c.n_ctx;
    };
    const uint32_t n_mixed = fitted(true), n_stock = fitted(false);
    printf("where %zu MiB are free, -fit gives mixed heads a context of %u and stock one of %u\n", device.free_bytes >> 20, n_mixed, n_stock);
    CHECK_EQ(n_mixed, uint32_t(p.n_ctx));
    CHECK(n_stock >= 4096 && n_stock < 0.6 * p.n_ctx);

    // and less room than that shortens it, too
    device.free_bytes -= mixed.context / 2;
    const uint32_t n_short = fitted(true);
    CHECK(n_short >= 4096 && n_short < 0.6 * p.n_ctx && n_short > 0.4 * p.n_ctx);
    llama_context_params params = cparams_of(true);
    params.n_ctx = n_short;
    const auto fits = needed(params);
    CHECK(fits.model + fits.context + fits.compute + margin <= device.free_bytes);
}

// As the server reuses a slot's prompt for the next: what both begin with stays, from where the cache can go on or from a checkpoint; what it does not
// expect to be refused ends it.
void test_prompt_reuse() {
    random_model_params p;
    p.n_layer   = 2;
    p.head_size = 16;
    p.n_vocab   = 64;
    p.seed      = fresh_seed();
    const auto model = make_random_model(p);
    const std::string gates = random_gates(model.get(), fresh_seed());
    llama_context_params params = duo_params(GGML_TYPE_F32, 1024, 0.5f, gates.c_str());
    params.n_ubatch   = 64;
    params.duo.sink   = 8;
    params.duo.recent = 24;
    params.n_threads  = params.n_threads_batch = 1;
    const auto ctx = make_context(model.get(), params), fresh = make_context(model.get(), params);
    CHECK_EQ(common_context_can_seq_rm(ctx.get()), COMMON_CONTEXT_SEQ_RM_TYPE_RS); // else the server makes no checkpoints
    params.duo.sparsity = 0.0f;
    CHECK_EQ(common_context_can_seq_rm(make_context(model.get(), params).get()), COMMON_CONTEXT_SEQ_RM_TYPE_PART);

    llama_memory_t mem = llama_get_memory(ctx.get());
    std::mt19937_64 rng(fresh_seed());
    std::vector<llama_token> held;
    std::vector<common_prompt_checkpoint> checkpoints;
    int n_kept = 0, n_from_checkpoint = 0, n_anew = 0;
    for (int request = 0; request < 60; ++request) {
        // a prompt that begins as the last one did
        std::vector<llama_token> prompt(held.begin(), held.begin() + rng() % (held.size() + 1));
        if (rng() % 3 == 0) {
            prompt = held; // the conversation goes on
        }
        const auto more = random_tokens(1 + int(rng() % 300), int(p.n_vocab), rng());
        prompt.insert(prompt.end(), more.begin(), more.end());
        prompt.resize(std::min<size_t>(prompt.size(), 900));

        int n_past = int(std::mismatch(prompt.begin(), prompt.end(), held.begin(), held.end()).first - prompt.begin());
        n_past = std::min(n_past, int(prompt.size()) - 1); // one token at least, for its logits
        int pos_next = n_past;
        if (n_past > 0) {
            const int pos_min = llama_memory_seq_pos_min(mem, 0);
            CHECK(pos_min >= 0);
            if (pos_min >= pos_next) {
                const auto it = std::find_if(checkpoints.rbegin(), checkpoints.rend(), [&](const common_prompt_checkpoint & c) {
                    return c.pos_max <= pos_next && (c.pos_min < pos_next || c.pos_min == 0);
                });
                if (it == checkpoints.rend()) {
                    n_past = pos_next = 0;
                    ++n_anew;
                } else {
                    it->load_tgt(ctx.get(), 0, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
                    pos_next = std::min(pos_next, std::max(it->pos_min + 1, it->pos_max));
                    n_past   = std::min(pos_next, int(it->n_tokens));
                    ++n_from_checkpoint;
                }
            } else {
                ++n_kept;
            }
        }
        checkpoints.erase(std::remove_if(checkpoints.begin(), checkpoints.end(), [&](const auto & c) { return c.pos_max > pos_next; }), checkpoints.end());
        CHECK(llama_memory_seq_rm(mem, 0, n_past, -1));

        std::vector<float> found;
        for (int i = n_past; i < int(prompt.size()); i += 64) {
            if (i > 0 && rng() % 2 == 0) {
                common_prompt_checkpoint c;
                c.update_pos(i, llama_memory_seq_pos_min(mem, 0), llama_memory_seq_pos_max(mem, 0));
                c.update_tgt(ctx.get(), 0, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
                checkpoints.push_back(c);
            }
            found.clear();
            CHECK_EQ(decode(ctx.get(), prompt.data() + i, std::min(64, int(prompt.size()) - i), i, false, found), 0);
        }
        CHECK(relative(found, prefill(fresh.get(), prompt, 64)) <= 1e-5);

        // the answer
        const auto answer = random_tokens(int(rng() % 100), int(p.n_vocab), rng());
        for (const llama_token token : answer) {
            CHECK_EQ(decode(ctx.get(), &token, 1, int(prompt.size()), false, found), 0);
            prompt.push_back(token);
        }
        held = prompt;
    }
    printf("60 prompts: %d went on in the cache, %d from a checkpoint, %d anew\n", n_kept, n_from_checkpoint, n_anew);
    CHECK(n_kept > 0 && n_from_checkpoint > 0);
}

// What f prints on stderr, the log included.
template <typename F>
std::string printed(F && f) {
    const std::string path = "/tmp/llama-duo-test-stderr-" + std::to_string(getpid());
    common_log_flush(common_log_main());
    fflush(stderr);
    const int before = dup(STDERR_FILENO), file = open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600);
    dup2(file, STDERR_FILENO);
    f();
    common_log_flush(common_log_main());
    fflush(stderr);
    dup2(before, STDERR_FILENO);
    close(before);
    close(file);
    std::ifstream in(path);
    const std::string text { std::istreambuf_iterator<char>(in), {} };
    remove(path.c_str());
    return text;
}

bool parse(llama_example example, std::vector<std::string> args, common_params & params) {
    args.insert(args.begin(), { "tool", "-m", "no/such/model.gguf" });
    std::vector<char *> argv;
    for (std::string & arg : args) {
        argv.push_back(arg.data());
    }
    return common_params_parse(int(argv.size()), argv.data(), params, example);
}

// Every option that mixed heads cannot honour, where a tool reads its options: before a model is looked for.
void test_options() {
    const struct {
        llama_example example;
        std::vector<std::string> args;
        bool refused;
        const char * says; // after "cannot be used with" or "go without"
        bool (*taken_back)(const common_params & params);
    } cases[] = {
        { LLAMA_EXAMPLE_SERVER,     { "-fa", "off" },                 true,  "-fa off: ",                 nullptr },
        { LLAMA_EXAMPLE_COMPLETION, { "-sm", "tensor" },              true,  "-sm tensor: ",              nullptr },
        { LLAMA_EXAMPLE_EMBEDDING,  { "--attention", "non-causal" },  true,  "--attention non-causal: ",  nullptr },
        { LLAMA_EXAMPLE_COMPLETION, { "--grp-attn-n", "4" },          true,  "--grp-attn-n: ",            nullptr },
        { LLAMA_EXAMPLE_PERPLEXITY, { "--hellaswag" },                true,  "--hellaswag: ",             nullptr },
        { LLAMA_EXAMPLE_PERPLEXITY, { "--winogrande" },               true,  "--winogrande: ",            nullptr },
        { LLAMA_EXAMPLE_PERPLEXITY, { "--multiple-choice" },          true,  "--multiple-choice: ",       nullptr },
        { LLAMA_EXAMPLE_SERVER,     { "-np", "8", "-b", "4" },        true,  "8 sequences (-np) in batches of 4 tokens", nullptr },
        { LLAMA_EXAMPLE_SERVER,     { "-np", "8", "-ub", "7" },       true,  "8 sequences (-np) in batches of 7 tokens", nullptr },
        { LLAMA_EXAMPLE_SERVER,     { "-np", "8", "-c", "6" },        true,  "8 sequences (-np) in batches of 6 tokens", nullptr },
        { LLAMA_EXAMPLE_SERVER,     { "-kvu", "-np", "4" },           false, "-kvu: ",                    [](const common_params & p) { return !p.kv_unified; } },
        { LLAMA_EXAMPLE_COMPLETION, { "--context-shift" },            false, "--context-shift: ",         [](const common_params & p) { return !p.ctx_shift; } },
        { LLAMA_EXAMPLE_SERVER,     { "--swa-full" },                  false, "--swa-full: ",              [](const common_params & p) { return !p.swa_full; } },
        { LLAMA_EXAMPLE_SERVER,     { "--cache-reuse", "64" },        false, "--cache-reuse: ",           [](const common_params & p) { return p.n_cache_reuse == 0; } },
    };
    for (const auto & c : cases) {
        common_params stock;
        CHECK_EQ(printed([&] { CHECK(parse(c.example, c.args, stock)); }).find("mixed heads"), std::string::npos);

        auto args = c.args;
        args.insert(args.end(), { "--duo-sparsity", "1" });
        common_params params;
        bool parsed = false;
        const std::string text = printed([&] { parsed = parse(c.example, args, params); });
        CHECK_EQ(parsed, !c.refused);
        const std::string sentence = std::string(c.refused ? "cannot be used with " : "go without ") + c.says;
        const size_t at = text.find(sentence);
        CHECK(at != std::string::npos);
        CHECK_EQ(text.find(sentence, at + 1), std::string::npos); // once
        CHECK(!c.taken_back || (!c.taken_back(stock) && c.taken_back(params)));
        if (at == std::string::npos) {
            printf("%s: said \"%s\"\n", c.says, text.c_str());
        }
    }
    // nothing to say: what a server chooses by itself, and sizes that just do
    for (const std::vector<std::string> & args : { std::vector<std::string>{}, { "-np", "8", "-b", "8", "-ub", "8" }, { "-fa", "on" } }) {
        auto with = args;
        with.insert(with.end(), { "--duo-sparsity", "1" });
        common_params params;
        CHECK_EQ(printed([&] { CHECK(parse(LLAMA_EXAMPLE_SERVER, with, params)); }).find("mixed heads"), std::string::npos);
        CHECK_EQ(params.n_parallel, args.empty() || args[0] != "-np" ? 1 : 8);
        CHECK(!params.kv_unified);
    }
    // and the tools end with 1
    std::vector<std::string> args = { "llama-perplexity", "-m", "no/such/model.gguf", "--hellaswag", "-f", "/dev/null", "--duo-sparsity", "0.5" };
    std::vector<char *> argv;
    for (std::string & arg : args) {
        argv.push_back(arg.data());
    }
    const std::string text = printed([&] { CHECK_EQ(llama_perplexity(int(argv.size()), argv.data()), 1); });
    CHECK(text.find("cannot be used with --hellaswag") != std::string::npos);
    CHECK(text.find("no/such/model.gguf") == std::string::npos);
}

} // namespace

int main() {
    llama_backend_init();
    llama_log_set([](ggml_log_level level, const char * text, void *) { if (level == GGML_LOG_LEVEL_ERROR) { fputs(text, stderr); } }, nullptr);
    test_fit();
    test_prompt_reuse();
    test_options();
    return check::result();
}
