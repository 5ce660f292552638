// Where the mixed-head cache lives and what it takes: devices with the operator and without it, and contexts that allocate nothing.
#include "check.h"
#include "contexts.h"
#include "decode.h"
#include "fake-device.h"
#include "random-model.h"

#include "duo-report.h"
#include "llama-context.h"
#include "llama-ext.h"
#include "llama-kv-cache-duo.h"
#include "llama-model.h"
#include "llama.h"

#include <cstdio>
#include <map>
#include <string>
#include <vector>

namespace {

std::string warnings, errors;

void keep_log(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_WARN) {
        warnings += text;
    } else if (level == GGML_LOG_LEVEL_ERROR) {
        errors += text;
    }
}

size_t count(const std::string & text, const std::string & part) {
    size_t n = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
        ++n;
    }
    return n;
}

random_model_params model_params() {
    random_model_params p;
    p.n_layer   = 4;
    p.n_head    = 6;
    p.n_head_kv = 3;
    p.head_size = 32;
    p.seed      = fresh_seed();
    return p;
}

llama_context_params duo(const char * gates, ggml_type type_k = GGML_TYPE_F16, ggml_type type_v = GGML_TYPE_F16) {
    llama_context_params p = duo_params(type_k, 1024, 0.5f, gates);
    p.type_v     = type_v;
    p.duo.sink   = 16;
    p.duo.recent = 48;
    p.n_ubatch   = 128;
    return p;
}

// A model of which all layers are on these devices, in parts as large as shares (-ts) says, else in equal ones.
llama_model_ptr_t load(const random_model_file & file, std::vector<ggml_backend_dev_t> devices, bool no_alloc = false, llama_split_mode split = LLAMA_SPLIT_MODE_LAYER,
                       std::vector<float> shares = {}) {
    if (shares.empty()) {
        shares.assign(devices.size(), 1.0f);
    }
    shares.resize(llama_max_devices());
    devices.push_back(nullptr);
    llama_model_params params = llama_model_default_params();
    params.tensor_split = shares.data();
    params.devices      = devices.data();
    params.n_gpu_layers = 99;
    params.split_mode   = split;
    params.no_alloc     = no_alloc;
    params.load_mode    = LLAMA_LOAD_MODE_NONE;
    return file.load(&params);
}

std::vector<float> run(llama_context * ctx, const std::vector<llama_token> & tokens) {
    std::vector<float> logits;
    CHECK_EQ(decode(ctx, tokens.data(), 300, 0, true, logits), 0);
    for (int i = 300; i < 310; ++i) {
        CHECK_EQ(decode(ctx, tokens.data() + i, 1, i, true, logits), 0);
    }
    return logits;
}

size_t context_bytes(llama_context * ctx, ggml_backend_buffer_type_t buft) {
    const auto all = llama_get_memory_breakdown(ctx);
    const auto it  = all.find(buft);
    return it == all.end() ? 0 : it->second.context;
}

// A device that lacks the operator keeps its layers' weights; it keeps their cache and attends where it has flash attention. Else their cache is in host
// memory, and their attention runs on the CPU.
void test_devices() {
    const random_model_params p = model_params();
    const random_model_file file(p);
    const auto tokens = random_tokens(310, p.n_vocab, fresh_seed());

    const auto cpu_model = file.load();
    const std::string gates = random_gates(cpu_model.get(), fresh_seed());
    const auto params = duo(gates.c_str(), GGML_TYPE_F32, GGML_TYPE_F32);
    const auto cpu  = make_context(cpu_model.get(), params);
    const auto want = run(cpu.get(), tokens);
    const size_t all_bytes = context_bytes(cpu.get(), ggml_backend_cpu_buffer_type());
    CHECK(all_bytes >= duo_kv_size_of(cpu.get()).total_bytes);

    fake_device with("with", true), without("without", false), flash("flash", false, true);
    struct setup { const char * name; std::vector<fake_device *> devices; bool offload; size_t n_on_device; size_t n_warnings; };
    for (const setup & s : { setup { "with the operator",    { &with },           true,  4, 0 },
                             setup { "without it",           { &without },        true,  0, 1 },
                             setup { "one with, one not",    { &with, &without }, true,  3, 1 },
                             setup { "with it, but -nkvo",   { &with },           false, 0, 0 },
                             setup { "with flash attention", { &flash },          true,  4, 0 },
                             setup { "with it, and flash",   { &with, &flash },   true,  4, 0 },
                             setup { "flash, but -nkvo",     { &flash },          false, 0, 0 } }) {
        std::vector<ggml_backend_dev_t> devices;
        for (fake_device * d : s.devices) {
            devices.push_back(d->device());
        }
        const auto model = load(file, devices);
        llama_context_params with_offload = params;
        with_offload.offload_kqv = s.offload;
        warnings.clear();
        with.n_attended = without.n_attended = flash.n_attended = flash.n_flash = 0;
        const bool has_flash = s.offload && s.devices.back() == &flash;
        const auto ctx = make_context(model.get(), with_offload);
        CHECK(ctx != nullptr);
        if (!ctx) {
            continue;
        }
        CHECK_EQ(count(warnings, "has neither mixed-head attention nor flash attention"), s.n_warnings);
        const auto found = run(ctx.get(), tokens);
        CHECK(has_flash ? worst_relative(found, want, p.n_vocab) <= 1e-5 : found == want);
        CHECK_EQ(without.n_attended + flash.n_attended, 0u);
        CHECK_EQ(with.n_attended > 0, s.n_on_device > 0 && s.devices[0] == &with);
        CHECK_EQ(flash.n_flash > 0, has_flash);

        // the rows are where they are said to be
        const auto * kv = static_cast<const llama_kv_cache_duo *>(ctx->get_memory());
        size_t n_host = 0, n_device = 0;
        for (int il = 0; il < p.n_layer; ++il) {
            const auto * buft = ggml_backend_buffer_get_type(kv->get_layer(il).k->buffer);
            n_host   += buft == ggml_backend_cpu_buffer_type();
            n_device += buft == with.buffer_type() || buft == flash.buffer_type();
        }
        CHECK_EQ(n_device, s.n_on_device);
        CHECK_EQ(n_host, p.n_layer - s.n_on_device);
        const size_t bytes = context_bytes(ctx.get(), with.buffer_type()) + context_bytes(ctx.get(), flash.buffer_type());
        CHECK_EQ(bytes > 0, s.n_on_device > 0);
        CHECK(s.n_on_device < 4 || (bytes >= duo_kv_size_of(cpu.get()).total_bytes && bytes < duo_kv_size_of(cpu.get()).total_bytes + 65536));
        CHECK_EQ(context_bytes(ctx.get(), without.buffer_type()), 0u);
        CHECK_EQ(duo_kv_size_of(ctx.get()).total_bytes, duo_kv_size_of(cpu.get()).total_bytes);

        // a state goes from one kind of memory to the other
        std::vector<uint8_t> state(llama_state_get_size(ctx.get()));
        CHECK_EQ(llama_state_get_data(ctx.get(), state.data(), state.size()), state.size());
        CHECK_EQ(llama_state_set_data(cpu.get(), state.data(), state.size()), state.size());
        std::vector<float> here, there;
        CHECK_EQ(decode(cpu.get(), tokens.data(), 5, 310, false, here), 0);
        CHECK_EQ(decode(ctx.get(), tokens.data(), 5, 310, false, there), 0);
        CHECK(has_flash ? relative(there, here) <= 1e-5 : here == there);
        printf("devices %s: the same logits, cache of %zu layers on the device, %zu warnings\n", s.name, n_device, s.n_warnings);
    }
}

// -ts: each device keeps the cache of its own layers and computes their attention, and the result is the same.
void test_shares() {
    const random_model_params p = model_params(); // 4 layers, and the output counts as one
    const random_model_file file(p);
    const auto tokens = random_tokens(310, p.n_vocab, fresh_seed());
    const auto cpu_model = file.load();
    const std::string gates = random_gates(cpu_model.get(), fresh_seed());
    const auto params = duo(gates.c_str(), GGML_TYPE_F32, GGML_TYPE_F32);
    const auto want = run(make_context(cpu_model.get(), params).get(), tokens);

    fake_device a("a", true), b("b", true), c("c", true);
    const std::vector<fake_device *> all = { &a, &b, &c };
    struct setup { std::vector<float> shares; std::vector<size_t> n_layer; };
    for (const setup & s : { setup { { 1, 1, 3 }, { 1, 1, 2 } }, setup { { 3, 1, 1 }, { 3, 1, 0 } }, setup { { 0, 2, 3 }, { 0, 2, 2 } } }) {
        const auto model = load(file, { a.device(), b.device(), c.device() }, false, LLAMA_SPLIT_MODE_LAYER, s.shares);
        a.n_attended = b.n_attended = c.n_attended = 0;
        const auto ctx = make_context(model.get(), params);
        CHECK(ctx != nullptr);
        if (!ctx) {
            continue;
        }
        CHECK(run(ctx.get(), tokens) == want);
        const auto * kv = static_cast<const llama_kv_cache_duo *>(ctx->get_memory());
        for (size_t i = 0; i < all.size(); ++i) {
            size_t n = 0;
            for (int il = 0; il < p.n_layer; ++il) {
                n += ggml_backend_buffer_get_type(kv->get_layer(il).k->buffer) == all[i]->buffer_type();
            }
            CHECK_EQ(n, s.n_layer[i]);
            CHECK_EQ(all[i]->n_attended > 0, n > 0);
            CHECK_EQ(context_bytes(ctx.get(), all[i]->buffer_type()) > 0, n > 0);
        }
    }
    printf("-ts: 3 divisions of 4 layers among 3 devices, the same logits\n");
}

// A device whose kernels for the layers are slow says so once a context, with its reason; one that has no opinion, or fast kernels, does not. One that has
// flash attention uses that instead, but for a cache of 16-bit rows.
void test_slow() {
    const random_model_file file(model_params());
    for (const bool has_flash : { false, true }) {
        fake_device device("device", true, has_flash);
        const auto model = load(file, { device.device() });
        const std::string gates = random_gates(model.get(), fresh_seed());
        for (const char * reason : { (const char *) nullptr, "use the same for both" }) {
            for (const ggml_type type_k : { GGML_TYPE_Q8_0, GGML_TYPE_F16, GGML_TYPE_BF16 }) {
                const bool uses_flash = reason && has_flash && type_k == GGML_TYPE_Q8_0, is_slow = reason && !uses_flash;
                fake_device::slow_reason = reason;
                warnings.clear();
                const auto ctx = make_context(model.get(), duo(gates.c_str(), type_k, GGML_TYPE_F16));
                CHECK(ctx != nullptr);
                CHECK_EQ(count(warnings, "will be slow"), is_slow ? 1u : 0u);
                CHECK_EQ(count(warnings, std::string("use the same for both (K is ") + ggml_type_name(type_k) + ", V is f16, 6 query and 3 KV heads of size 32 and 32)"), is_slow ? 1u : 0u);
                CHECK_EQ(static_cast<const llama_kv_cache_duo *>(ctx->get_memory())->i_primitives(0) >= 0, uses_flash);
            }
        }
    }
    fake_device::slow_reason = nullptr;
}

// What a context is said to take without allocating is what it takes: the cache, and the graph's buffers.
void test_breakdown(bool has_operator) {
    const random_model_params p = model_params();
    const random_model_file file(p);
    fake_device device("device", has_operator, true);
    const auto real = load(file, { device.device() });
    const auto dry  = load(file, { device.device() }, true);
    const std::string gates = random_gates(real.get(), fresh_seed());
    int n = 0;
    for (const float sparsity : { 0.0f, 0.3f, 1.0f }) {
        for (const auto & [k, v] : std::map<ggml_type, ggml_type> { { GGML_TYPE_F32, GGML_TYPE_F16 }, { GGML_TYPE_F16, GGML_TYPE_F16 }, { GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 } }) {
            for (const uint32_t n_seq : { 1u, 3u }) {
                llama_context_params params = duo(gates.c_str(), k, v);
                params.duo.sparsity = sparsity;
                params.n_seq_max = n_seq;
                params.n_ctx     = 4096 * n_seq;
                const auto context = make_context(real.get(), params);
                const size_t n_buffers = device.n_buffers, n_bytes = device.n_bytes;
                const auto nothing = make_context(dry.get(), params);
                CHECK(context && nothing);
                if (!context || !nothing) {
                    continue;
                }
                CHECK_EQ(device.n_bytes, n_bytes); // no more than empty buffers
                CHECK(device.n_buffers <= n_buffers + 2);
                const auto is = llama_get_memory_breakdown(context.get()), said = llama_get_memory_breakdown(nothing.get());
                const size_t cache = context_bytes(context.get(), device.buffer_type());
                const duo_kv_size size = duo_kv_size_of(context.get());
                // head maps, counters and alignment come on top of the rows
                CHECK(cache >= size.total_bytes && cache < size.total_bytes + 65536);
                CHECK_EQ(context_bytes(nothing.get(), device.buffer_type()), cache);
                CHECK_EQ(duo_kv_size_of(nothing.get()).total_bytes, size.total_bytes);
                CHECK_EQ(said.at(device.buffer_type()).compute, is.at(device.buffer_type()).compute);
                CHECK_EQ(said.at(device.buffer_type()).model, is.at(device.buffer_type()).model);
                ++n;
            }
        }
    }
    printf("%d contexts that allocate nothing: the same sizes as those that do\n", n);
}

// Refused before anything is allocated: no buffer is asked of the device.
void test_refused() {
    const random_model_params p = model_params();
    const random_model_file file(p);
    fake_device device("device", true), other("other", true);
    const auto model = load(file, { device.device() });
    const std::string gates = random_gates(model.get(), fresh_seed());
    auto refused = [&](llama_model * m, const llama_context_params & params, const char * reason) {
        const size_t n_buffers = device.n_buffers + other.n_buffers;
        errors.clear();
        CHECK(make_context(m, params) == nullptr);
        check::report(errors.find(reason) != std::string::npos, __FILE__, __LINE__, std::string("refused with ") + reason, "found " + errors);
        CHECK_EQ(device.n_buffers + other.n_buffers, n_buffers);
    };
    llama_context_params params = duo(gates.c_str());
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    refused(model.get(), params, "flash attention is off");
    params = duo("no/such/file.tsv");
    refused(model.get(), params, "no/such/file.tsv");
    params = duo(gates.c_str());
    params.duo.recent = 2000000000;
    refused(model.get(), params, "cells");
    params = duo(gates.c_str(), GGML_TYPE_Q2_K);
    refused(model.get(), params, "K cache type q2_K");
    params = duo(gates.c_str());
    const llama_hparams before = model->hparams;
    model->hparams.swa_type = LLAMA_SWA_TYPE_SYMMETRIC;
    refused(model.get(), params, "look ahead");
    model->hparams = before;

    // -sm tensor
    const auto split = load(file, { device.device(), other.device() }, false, LLAMA_SPLIT_MODE_TENSOR);
    CHECK_EQ(split->split_mode(), LLAMA_SPLIT_MODE_TENSOR);
    refused(split.get(), params, "-sm tensor");
}

} // namespace

int main() {
    llama_log_set(keep_log, nullptr);
    llama_backend_init();
    test_devices();
    test_shares();
    test_slow();
    test_breakdown(true);
    test_breakdown(false);
    test_refused();
    return check::result();
}
