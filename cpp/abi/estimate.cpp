#include "estimate.h"

#include "host-memory.h"
#include "log.h"
#include "lora.h"

#include "llama-ext.h"
#include "llama-model.h"

#include <algorithm>
#include <cstdio>
#include <shared_mutex>

namespace duo::abi {

json device_memory::describe() const {
    return {
        { "name",         name },
        { "description",  description },
        { "type",         gpu ? "gpu" : "cpu" },
        { "totalBytes",   total_bytes },
        { "freeBytes",    free_bytes },
        { "weightsBytes", weights_bytes },
        { "contextBytes", context_bytes },
        { "computeBytes", compute_bytes },
    };
}

static device_memory device_now(ggml_backend_dev_t dev) {
    device_memory d = {};
    d.name        = ggml_backend_dev_name(dev);
    d.description = ggml_backend_dev_description(dev);
    d.gpu         = ggml_backend_dev_type(dev) != GGML_BACKEND_DEVICE_TYPE_CPU;
    if (d.gpu) {
        size_t free  = 0;
        size_t total = 0;
        ggml_backend_dev_memory(dev, &free, &total);
        d.free_bytes  = free;
        d.total_bytes = total;
    } else {
        const host_memory host = host_memory_now();
        d.free_bytes  = host.free_bytes;
        d.total_bytes = host.total_bytes;
    }
    return d;
}

json describe_devices() {
    json devices = json::array();
    for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
        json d = device_now(ggml_backend_dev_get(i)).describe();
        for (const char * key : { "weightsBytes", "contextBytes", "computeBytes" }) {
            d.erase(key);
        }
        devices.push_back(std::move(d));
    }
    return { { "devices", std::move(devices) } };
}

// The host, then the model's devices.
static std::vector<ggml_backend_dev_t> devices_of(const llama_model * m) {
    std::vector<ggml_backend_dev_t> result = { ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU) };
    for (int32_t i = 0; i < llama_model_n_devices(m); i++) {
        result.push_back(llama_model_get_device(m, i));
    }
    return result;
}

std::vector<device_memory> memory_of(const llama_context * ctx, const model & m) {
    const auto devices = devices_of(llama_get_model(ctx));
    std::vector<device_memory> result;
    for (ggml_backend_dev_t dev : devices) {
        result.push_back(device_now(dev));
    }
    const auto at = [&](ggml_backend_buffer_type_t buft) -> device_memory & {
        const ggml_backend_dev_t dev = ggml_backend_buft_is_host(buft) ? nullptr : ggml_backend_buft_get_device(buft);
        const auto it = std::find(devices.begin() + 1, devices.end(), dev);
        return result[it == devices.end() ? 0 : size_t(it - devices.begin())];
    };
    for (const auto & [buft, bytes] : llama_get_memory_breakdown(ctx)) {
        at(buft).context_bytes += bytes.context;
        at(buft).compute_bytes += bytes.compute;
    }
    // where the file is mapped, tensors that share their bytes take them once, which a copy without weights does not know
    for (const auto & [buft, bytes] : (m.has_weights() ? m.ptr.get() : llama_get_model(ctx))->memory_breakdown()) {
        at(buft).weights_bytes += bytes;
    }
    // Weights that are mapped count as free memory, and are needed all the same: without them in memory every token reads the file.
    const bool mapped = m.options.params.load_mode != LLAMA_LOAD_MODE_NONE && m.options.params.load_mode != LLAMA_LOAD_MODE_MLOCK &&
                        m.options.params.load_mode != LLAMA_LOAD_MODE_DIRECT_IO;
    for (device_memory & d : result) {
        const bool there = m.has_weights() && (d.gpu || !mapped);
        d.needed_bytes = d.context_bytes + d.compute_bytes + (there ? 0 : d.weights_bytes);
    }
    return result;
}

std::vector<device_memory> memory_of(const llama_context * ctx, const model & m, const llama_context * draft, const model & draft_model) {
    auto result = memory_of(ctx, m);
    for (device_memory d : memory_of(draft, draft_model)) {
        if (&draft_model == &m) { // whose weights are there once
            d.needed_bytes  = d.context_bytes + d.compute_bytes;
            d.weights_bytes = 0;
        }
        const auto same = std::find_if(result.begin(), result.end(), [&](const device_memory & r) { return r.name == d.name; });
        if (same == result.end()) {
            result.push_back(std::move(d));
            continue;
        }
        same->weights_bytes += d.weights_bytes;
        same->context_bytes += d.context_bytes;
        same->compute_bytes += d.compute_bytes;
        same->needed_bytes  += d.needed_bytes;
    }
    return result;
}

// What is spared is a share of what the weights leave: of a model that takes most of the memory, too, a context leaves some.
bool fits(const std::vector<device_memory> & devices, double spare) {
    return std::all_of(devices.begin(), devices.end(), [&](const device_memory & d) {
        const double context = double(d.context_bytes + d.compute_bytes);
        const double weights = double(d.needed_bytes) - context;
        return context <= (double(d.free_bytes) - weights) * (1 - spare);
    });
}

estimator::estimator(const model & m, const draft_options * drafts) : m(m), drafts(drafts) {
    if (drafts && drafts->draft) {
        of_draft = std::make_unique<estimator>(*drafts->draft);
    }
    if (m.options.params.no_alloc) {
        return;
    }
    log_capture errors;
    copy.reset(llama_model_load_from_file(m.options.path.c_str(), m.options.use_weightless()));
    if (!copy) {
        throw job_error("model", "cannot load \"" + m.options.path + "\" again: " + errors.reason("llama.cpp gave no reason"));
    }
}

// The most cells of llama.cpp's own cache that may be tried out: their records, of up to 64 bytes, shall take a sixteenth of the free memory at most.
static uint64_t most_cells() {
    return host_memory_now().free_bytes / 16 / 64;
}

bool estimator::can_try(const llama_context_params & p) {
    return p.duo.enabled || p.n_ctx <= most_cells();
}

estimator::trial estimator::context(const llama_context_params & p, std::string & reason) const {
    trial result;
    {
        log_capture errors;
        std::shared_lock lock(adapters_of_models());
        result.ctx.reset(llama_init_from_model(copy ? copy.get() : m.ptr.get(), p));
        if (!result.ctx) {
            reason = errors.reason("llama.cpp could not create the context and gave no reason");
        }
    }
    if (result.ctx && of_draft) {
        result.draft = of_draft->context(drafts->params(p), reason).ctx;
        if (!result.draft) {
            reason = "the draft model's context: " + reason;
            result.ctx.reset();
        }
    }
    return result;
}

std::vector<device_memory> estimator::memory_of(const trial & t) const {
    return t.draft ? abi::memory_of(t.ctx.get(), m, t.draft.get(), *drafts->draft) : abi::memory_of(t.ctx.get(), m);
}

uint32_t estimator::largest(llama_context_params p, double spare) const {
    const auto fitting = [&](uint32_t n) {
        p.n_ctx = 256 * n;
        std::string reason;
        const trial t = context(p, reason);
        return t.ctx && fits(memory_of(t), spare);
    };
    // what a context takes grows with its size
    uint32_t good = 0;
    uint32_t bad  = uint32_t((p.duo.enabled ? p.n_ctx : std::min<uint64_t>(p.n_ctx, most_cells())) / 256) + 1;
    if (bad > 1 && fitting(bad - 1)) {
        return 256 * (bad - 1);
    }
    while (bad - good > 1) {
        const uint32_t n = good + (bad - good) / 2;
        (fitting(n) ? good : bad) = n;
    }
    return 256 * good;
}

// What a context can take at the most, and more than it ever does: every row in f32, a mask and scores of all cells.
static double bound(const model & m, const llama_context_params & p) {
    const llama_hparams & hparams = m.ptr->hparams;
    double row    = 0;
    double states = 0;
    double heads  = 1;
    for (uint32_t il = 0; il < hparams.n_layer(); il++) {
        row    += double(hparams.n_embd_k_gqa(il)) + double(hparams.n_embd_v_gqa(il));
        heads   = std::max(heads, double(hparams.n_head(il)));
        states += double(hparams.n_embd_r()) + double(hparams.n_embd_s());
    }
    const double n_ctx = double(p.n_ctx) + 256.0 * p.n_seq_max;
    const double compute = double(p.n_ubatch) * ((heads + 1) * n_ctx + llama_vocab_n_tokens(m.vocab) + 64.0 * hparams.n_embd);
    return 4 * (row * (n_ctx + p.n_ubatch) + states * p.n_seq_max * (1 + p.n_rs_seq) + compute);
}

static std::string mib(uint64_t bytes) {
    char text[32];
    snprintf(text, sizeof(text), "%.1f MiB", double(bytes) / 1024 / 1024);
    return text;
}

// Whether the context leaves the share of free memory by far: then there is no need to try it out.
static bool is_small(const model & m, const draft_options * drafts, const llama_context_params & p, double spare) {
    const auto most_of = [](const model & m, const llama_context_params & p) {
        return bound(m, p) + double(llama_model_size(m.ptr.get())); // mapped weights are needed, too
    };
    const bool   two  = drafts && drafts->draft;
    const double most = most_of(m, p) + (two ? most_of(*drafts->draft, drafts->params(p)) : 0);
    auto         all  = devices_of(m.ptr.get());
    if (two) {
        const auto more = devices_of(drafts->draft->ptr.get());
        all.insert(all.end(), more.begin(), more.end());
    }
    return std::all_of(all.begin(), all.end(), [&](ggml_backend_dev_t dev) { return most < (1 - spare) * double(device_now(dev).free_bytes); });
}

uint32_t largest_context(const model & m, const draft_options * drafts, const llama_context_params & p, double spare) {
    return is_small(m, drafts, p, spare) ? p.n_ctx : estimator(m, drafts).largest(p, spare);
}

void check_fits(const model & m, const draft_options * drafts, const llama_context_params & p) {
    if (is_small(m, drafts, p, 0)) {
        return;
    }
    const estimator trial(m, drafts);
    device_memory short_of = device_now(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU));
    if (!estimator::can_try(p)) {
        short_of.needed_bytes = uint64_t(64) * p.n_ctx; // and its rows
    } else {
        std::string reason;
        const auto tried   = trial.context(p, reason);
        const auto devices = tried.ctx ? trial.memory_of(tried) : std::vector<device_memory>(); // without one, making it says why
        const auto it = std::find_if(devices.begin(), devices.end(), [](const device_memory & d) { return d.needed_bytes > d.free_bytes; });
        if (it == devices.end()) {
            return;
        }
        short_of = *it;
    }
    const uint32_t largest = trial.largest(p, 0.05);
    throw job_error("memory", "a context of " + std::to_string(p.n_ctx) + " tokens needs " + mib(short_of.needed_bytes) + " of " + short_of.name + ", where " +
            mib(short_of.free_bytes) + " are free. " +
            (largest > 0 ? "The largest that fits holds " + std::to_string(largest) + " tokens" + (p.n_seq_max > 1 ? " in its " + std::to_string(p.n_seq_max) + " sequences" : "")
                         : "None fits beside the model") +
            "; smaller cache types (typeK, typeV) and more streaming heads take less",
            { { "device", short_of.name }, { "neededBytes", short_of.needed_bytes }, { "freeBytes", short_of.free_bytes }, { "largestContextSize", largest } });
}

} // namespace duo::abi
