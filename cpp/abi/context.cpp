#include "context.h"

#include "engine-thread.h"
#include "estimate.h"
#include "gates.h"
#include "handle-table.h"
#include "log.h"
#include "lora.h"
#include "process.h"

#include "common.h"
#include "duo-report.h"
#include "gate-pattern.h"
#include "ggml.h"
#include "llama-arch.h"
#include "llama-context.h"
#include "llama-model.h"

#include <algorithm>
#include <shared_mutex>

namespace duo::abi {

// --- options ---

ggml_type cache_type(options & o, const char * key, ggml_type otherwise) {
    const auto & types = duo_cache_types();
    std::vector<std::string> names;
    for (const ggml_type t : types) {
        names.push_back(ggml_type_name(t));
    }

    const auto name = o.one_of(key, names);
    return name ? types[std::find(names.begin(), names.end(), *name) - names.begin()] : otherwise;
}

// Bytes, or a share of them.
static constexpr double least_budget = 1e-6, most_budget = 9007199254740991;

static void read_duo(options o, context_options & result) {
    llama_duo_params & duo = result.params.duo;
    duo.enabled = true;

    if (const json * gates = o.value("gates")) {
        const bool is_path = gates->is_string() && *gates != "" && gates->get<std::string>().find('\0') == std::string::npos;
        if (!is_path && !gates->is_object()) {
            throw o.error("gates", "\"auto\", a path or a gate pattern");
        }
        result.gates = is_path ? gates->get<std::string>() : dump(*gates);
    }

    std::optional<double> sparsity;
    std::optional<double> threshold;
    read_selection(o, sparsity, threshold);
    duo.sparsity  = float(sparsity.value_or(duo.sparsity));
    duo.threshold = float(threshold.value_or(duo.threshold));
    if (const json * budget = o.value("budget")) {
        const double value = budget->is_number() ? budget->get<double>() : NAN;
        if (!(value >= least_budget && value <= most_budget)) {
            throw o.error("budget", "a share of a full f16 cache, such as 0.3, or a size, such as '4GiB'");
        }
        duo.budget = value;
    }

    duo.sink   = int32_t(o.integer("sink",   0, INT32_MAX).value_or(duo.sink));
    duo.recent = int32_t(o.integer("recent", 0, INT32_MAX).value_or(duo.recent));
    duo.chunk  = int32_t(o.integer("chunk",  1, INT32_MAX).value_or(duo.chunk));
    if (duo.budget > 0 && (sparsity || threshold)) {
        throw o.error("budget", "no budget beside a sparsity or a threshold: they are ways to choose heads");
    }
    o.finish();
}

static constexpr int64_t max_context = INT32_MAX - 255; // so that it can be padded

context_options context_options::read(options o) {
    context_options result;
    result.params = llama_context_default_params();
    llama_context_params & p = result.params;

    const json * size = o.value("contextSize");
    if (size && size->is_string()) {
        if (*size != "auto" && *size != "fit") {
            throw o.error("contextSize", "a number of tokens, \"auto\" or \"fit\"");
        }
        result.size = *size == "fit" ? size_rule::fit : size_rule::automatic;
    }
    p.n_ctx     = size && size->is_string() ? 0 : uint32_t(o.integer("contextSize", 0, max_context).value_or(0));
    p.n_seq_max = uint32_t(o.integer("sequences", 1, int64_t(llama_max_parallel_sequences())).value_or(p.n_seq_max));
    p.n_batch   = uint32_t(o.integer("batchSize", 1, INT32_MAX).value_or(p.n_batch));
    if (p.n_batch < p.n_seq_max) {
        throw o.error("batchSize", "an integer of at least " + std::to_string(p.n_seq_max) + ": a token for each of the sequences");
    }
    p.n_ubatch  = uint32_t(o.integer("ubatchSize", 1, INT32_MAX).value_or(p.n_ubatch));

    p.n_threads       = int32_t(o.integer("threads", 1, GGML_MAX_N_THREADS).value_or(common_cpu_get_num_math()));
    p.n_threads_batch = int32_t(o.integer("threadsBatch", 1, GGML_MAX_N_THREADS).value_or(p.n_threads));

    p.type_k = cache_type(o, "typeK", p.type_k);
    p.type_v = cache_type(o, "typeV", p.type_v);

    if (const auto mode = o.one_of("flashAttention", { "auto", "on", "off" })) {
        p.flash_attn_type = *mode == "on" ? LLAMA_FLASH_ATTN_TYPE_ENABLED : *mode == "off" ? LLAMA_FLASH_ATTN_TYPE_DISABLED
                                                                                           : LLAMA_FLASH_ATTN_TYPE_AUTO;
    }
    if (const auto duo = o.object("duo")) {
        read_duo(*duo, result);
    }
    result.loras = read_loras(o);
    if (const auto speculative = o.object("speculative")) {
        result.drafts = draft_options::read(*speculative);
    }
    o.finish();
    return result;
}

// The largest context that fits, or a modest one that leaves half of what is free to others.
static void choose_size(const model & m, const draft_options * drafts, llama_context_params & p, context_options::size_rule rule) {
    constexpr uint32_t modest = 8192;
    const bool fit = rule == context_options::size_rule::fit;

    p.n_ctx = fit ? p.n_ctx : std::min(p.n_ctx, modest);
    p.n_ctx = uint32_t(std::min<int64_t>(int64_t(GGML_PAD(p.n_ctx, 256)) * p.n_seq_max, GGML_PAD(max_context - 255, 256)));
    // a tenth of what is free is left: other programs take some before the context does
    uint32_t n = largest_context(m, drafts, p, fit ? 0.1 : 0.5);
    if (n == 0) { // little memory is free, and what there is has to do
        n = largest_context(m, drafts, p, 0.05);
    }
    if (n == 0) {
        p.n_ctx = 256 * p.n_seq_max;
        check_fits(m, drafts, p);
        n = p.n_ctx;
    }
    p.n_ctx = n;
}

llama_context_params context_options::use(const model & m) const {
    llama_context_params p = params;
    p.duo.gates = gates ? gates->c_str() : nullptr;

    if (p.n_ctx == 0) {
        const int64_t n_ctx_train = llama_model_n_ctx_train(m.ptr.get());
        if (n_ctx_train < 1 || n_ctx_train > max_context) {
            throw option_error("contextSize", p.n_ctx, "a number of tokens: the model says that it was trained for " + std::to_string(n_ctx_train));
        }
        p.n_ctx = uint32_t(n_ctx_train);
    }
    if (drafts) {
        drafts->make_room(m, p);
    }
    if (size != size_rule::given) {
        choose_size(m, drafting(), p, size);
    }
    // llama.cpp does so itself, but only after it has cut the batch to what was asked for: 300 tokens would get a context of 512 and batches of 300
    p.n_ctx = GGML_PAD(p.n_ctx, 256);
    return p;
}

// --- creation ---

static json describe(const duo_kv_size & kv) {
    return {
        { "retrievalBytes", kv.retrieval_bytes },
        { "streamingBytes", kv.streaming_bytes },
        { "windowedBytes",  kv.windowed_bytes },
        { "recurrentBytes", kv.recurrent_bytes },
        { "totalBytes",     kv.total_bytes },
        { "fullBytes",      kv.full_bytes },
        { "typeK",          ggml_type_name(kv.type_k) },
        { "typeV",          ggml_type_name(kv.type_v) },
        { "finerK",         kv.finer_layers.empty() ? json() : json { { "type", ggml_type_name(kv.finer_k) }, { "layers", kv.finer_layers } } },
        { "expectedLoss",   kv.expected_loss < 0 ? json() : json(kv.expected_loss) },
        { "retrievalHeads", kv.n_retrieval },
        { "streamingHeads", kv.n_streaming },
        { "retrievalCells", kv.n_ctx_seq },
        { "streamingCells", kv.n_cells_streaming },
        { "windowedHeads",  kv.n_windowed },
        { "windowedCells",  kv.n_cells_windowed },
        { "sequences",      kv.n_seq },
        { "sink",           kv.sink },
        { "recent",         kv.recent },
        { "chunk",          kv.chunk },
    };
}

// A stock cache doesn't say of which types its rows are: they are those that were asked for.
static duo_kv_size kv_size_of(const llama_context * ctx, const llama_context_params & p) {
    duo_kv_size kv = duo_kv_size_of(ctx);
    if (!duo_has_mixed_heads(ctx)) {
        kv.type_k = p.type_k;
        kv.type_v = p.type_v;
    }
    return kv;
}

static json describe(const std::vector<device_memory> & devices) {
    json result = json::array();
    for (const device_memory & d : devices) {
        result.push_back(d.describe());
    }
    return result;
}

// duo_kv_size_for, its exceptions told apart.
static duo_kv_size kv_size(const model & m, const llama_context_params & p) {
    try {
        return duo_kv_size_for(m.ptr.get(), p);
    } catch (const gate_error & e) {
        throw gates_job_error(e);
    } catch (const std::runtime_error & e) {
        throw job_error("context", e.what());
    }
}

// What a caller should know of a context that works.
static json warnings_of(const model & m, uint32_t n_ctx_seq) {
    json warnings = json::array();
    const auto n_ctx_train = uint32_t(llama_model_n_ctx_train(m.ptr.get()));
    if (n_ctx_seq > GGML_PAD(n_ctx_train, 256)) { // what was added to fill 256 is no wish for more
        warnings.push_back({
            { "code",    "beyond-training" },
            { "message", "the context holds " + std::to_string(n_ctx_seq) + " tokens, and the model was trained for " + std::to_string(n_ctx_train) +
                         ": what it makes of later ones may be nonsense" },
        });
    }
    return warnings;
}

static void check_can_have_context(const model & m) {
    if (m.options.params.vocab_only) {
        require_weights(m, "make a context with");
    }
    if (llama_model_has_encoder(m.ptr.get()) || !llama_model_has_decoder(m.ptr.get()) || llama_model_is_diffusion(m.ptr.get())) {
        throw job_error("context", "the model does not generate text token by token: encoders and diffusion models have no use for a context here");
    }
}

// Why there can be no drafts, "" where there can or nobody wants any.
static std::string drafts_unsupported(const model & m, const context_options & o) {
    if (o.drafts && o.drafts->draft) {
        check_can_have_context(*o.drafts->draft);
    }
    const std::string reason = o.drafts ? o.drafts->unsupported(m, o.params) : "";
    return reason.empty() ? "" : "tokens cannot be drafted: " + reason;
}

// Throws where llama.cpp cannot make it.
static llama_context_ptr make(const model & m, const llama_context_params & p, const log_capture & errors) {
    llama_context_ptr ptr(llama_init_from_model(m.ptr.get(), p));

    static const bool armed = arm_exit_handler();
    (void) armed;

    if (!ptr) {
        throw job_error("context", errors.reason("llama.cpp could not create the context and gave no reason"));
    }
    if (!llama_get_memory(ptr.get())) {
        throw job_error("context", "the model does not generate text token by token: it has no KV cache");
    }
    return ptr;
}

static std::shared_ptr<context> create_context(job & j, std::shared_ptr<model> m, const context_options & o, std::shared_ptr<scheduler> sched) {
    check_can_have_context(*m);
    require_weights(*m, "make a context with");
    start_backends();

    std::vector<llama_adapter_lora *> adapters;
    std::vector<float>                scales;
    for (const used_lora & l : o.loras) {
        if (l.adapter->mdl != m) {
            throw job_error("context", "an adapter in \"loras\" was loaded for another model");
        }
        adapters.push_back(l.adapter->ptr);
        scales.push_back(l.scale);
    }

    const std::string no_drafts = drafts_unsupported(*m, o);
    if (!no_drafts.empty()) {
        throw job_error("unsupported", no_drafts);
    }
    if (o.drafts && o.drafts->draft) {
        require_weights(*o.drafts->draft, "draft with");
    }
    const llama_context_params p = o.use(*m);
    if (p.duo.enabled) {
        const std::string reason = duo_unsupported(m->ptr.get(), p);
        if (!reason.empty()) {
            throw job_error("unsupported", "mixed heads do not apply: " + reason + ". Without duo options the context is as in llama.cpp");
        }
        kv_size(*m, p);  // for its typed errors
    }
    check_fits(*m, o.drafting(), p);

    log_capture errors;
    std::shared_lock lock(adapters_of_models());
    llama_context_ptr ptr = make(*m, p, errors);
    if (!adapters.empty() && llama_set_adapters_lora(ptr.get(), adapters.data(), adapters.size(), scales.data()) != 0) {
        throw job_error("context", "the adapters cannot be used: " + errors.reason("llama.cpp gave no reason"));
    }
    if (!adapters.empty()) {
        try { // else the first decode makes the room that they need
            ptr->sched_reserve();
        } catch (const std::exception & e) {
            throw job_error("context", std::string("the context with its adapters cannot be created: ") + e.what());
        }
    }
    std::unique_ptr<drafter> drafts;
    if (o.drafts) {
        llama_context_ptr draft = o.drafts->draft ? make(*o.drafts->draft, o.drafts->params(p), errors) : nullptr;
        drafts = std::make_unique<drafter>(*o.drafts, ptr.get(), std::move(draft));
    }
    lock.unlock();

    const llama_context * ctx   = ptr.get();
    const llama_context * draft = drafts ? drafts->ctx() : nullptr;
    const duo_kv_size     kv    = kv_size_of(ctx, p);
    const json        draft_kv  = draft ? describe(kv_size_of(draft, o.drafts->params(p))) : json();
    const auto c = std::make_shared<context>(std::move(m), std::move(ptr), std::move(drafts), o, std::move(sched), kv.type_k, kv.type_v);

    json result = {
        { "context",            0 },
        { "contextSize",        llama_n_ctx(ctx) },
        { "sequences",          llama_n_seq_max(ctx) },
        { "contextPerSequence", llama_n_ctx_seq(ctx) },
        { "batchSize",          llama_n_batch(ctx) },
        { "ubatchSize",         llama_n_ubatch(ctx) },
        { "threads",            p.n_threads },
        { "threadsBatch",       p.n_threads_batch },
        { "typeK",              ggml_type_name(kv.type_k) },
        { "typeV",              ggml_type_name(kv.type_v) },
        { "kv",                 describe(kv) },
        { "draftKv",            draft_kv },
        { "devices",            describe(draft ? memory_of(ctx, *c->mdl, draft, *o.drafts->draft) : memory_of(ctx, *c->mdl)) },
        { "warnings",           warnings_of(*c->mdl, llama_n_ctx_seq(ctx)) },
    };
    j.finish([&] {
        result["context"] = handles().add(c, j.owner);
        return result;
    });
    return c;
}

void submit_context(std::shared_ptr<job> j, std::shared_ptr<model> m, context_options o) {
    scheduler::start(std::move(j), [m = std::move(m), o = std::move(o)](job & j, const std::shared_ptr<scheduler> & s) {
        return create_context(j, m, o, s);
    });
}

void free_context(std::shared_ptr<context> c, std::shared_ptr<job> j) {
    const auto sched = c->sched;
    sched->end([c = std::move(c), j = std::move(j)]() mutable {
        c.reset();  // also where nobody waits for the job any more
        j->run([](job & j) { j.finish([] { return json::object(); }); });
    });
}

// --- planning ---

namespace {

struct plan {
    std::string                reason; // why there can be no such context, "" if there can
    std::optional<duo_kv_size> kv;
};

} // namespace

static plan simulate(const model & m, const llama_context_params & p) {
    const estimator trial(m);
    plan result;
    if (const auto tried = trial.context(p, result.reason); tried.ctx) {
        result.kv = kv_size_of(tried.ctx.get(), p);
    }
    return result;
}

static plan plan_of(const model & m, const llama_context_params & p) {
    if (p.duo.enabled) {
        const std::string reason = duo_unsupported(m.ptr.get(), p);
        return reason.empty() ? plan { "", kv_size(m, p) } : plan { reason, {} };
    }

    // what could have mixed heads and has neither windows nor recurrent layers has the standard cache, whose size needs no more than arithmetic
    const bool standard = !m.ptr->hparams.is_swa_any() && !llm_arch_is_hybrid(m.ptr->arch) && duo_unsupported(m.ptr.get(), p).empty();
    return standard ? plan { "", kv_size(m, p) } : simulate(m, p);
}

void plan_context(job & j, const model & m, const context_options & o) {
    check_can_have_context(m);
    start_backends();

    const std::string no_drafts = drafts_unsupported(m, o);
    plan planned = { no_drafts, {} };
    plan draft;
    if (no_drafts.empty()) {
        const llama_context_params p = o.use(m);
        planned = plan_of(m, p);
        if (planned.kv && o.drafts && o.drafts->draft) {
            draft = plan_of(*o.drafts->draft, o.drafts->params(p));
            if (!draft.kv) {
                planned = { "the draft model's context: " + draft.reason, {} };
            }
        }
    }
    j.finish([&] {
        return json {
            { "supported", planned.kv.has_value() },
            { "reason",    planned.kv ? json() : json(planned.reason) },
            { "kv",        planned.kv ? describe(*planned.kv) : json() },
            { "draftKv",   draft.kv ? describe(*draft.kv) : json() },
            { "warnings",  planned.kv ? warnings_of(m, planned.kv->n_ctx_seq) : json::array() },
        };
    });
}

void estimate_context(job & j, const model & m, const context_options & o) {
    check_can_have_context(m);
    start_backends();

    plan planned = { drafts_unsupported(m, o), {} };
    std::optional<duo_kv_size> draft;
    std::vector<device_memory> devices;
    const llama_context_params p = planned.reason.empty() ? o.use(m) : o.params;
    if (planned.reason.empty() && p.duo.enabled) {
        planned.reason = duo_unsupported(m.ptr.get(), p);
        if (planned.reason.empty()) {
            kv_size(m, p);  // for its typed errors
        }
    }
    uint32_t n_ctx   = p.n_ctx; // each sequence has a multiple of 256
    uint32_t largest = 0;
    bool     tried   = true;
    if (planned.reason.empty()) {
        const estimator trial(m, o.drafting());
        if (!estimator::can_try(p)) {
            tried   = false;
            largest = trial.largest(p, 0.05);
        } else if (const auto t = trial.context(p, planned.reason); t.ctx) {
            planned.kv = kv_size_of(t.ctx.get(), p);
            draft      = t.draft ? std::optional(kv_size_of(t.draft.get(), o.drafts->params(p))) : std::nullopt;
            devices    = trial.memory_of(t);
            n_ctx      = llama_n_ctx(t.ctx.get());
            largest    = fits(devices) ? n_ctx : trial.largest(p, 0.05);
        }
    }
    const auto sum = [&](uint64_t device_memory::*bytes) {
        uint64_t result = 0;
        for (const device_memory & d : devices) {
            result += d.*bytes;
        }
        return result;
    };
    j.finish([&] {
        json result = {
            { "supported",          planned.kv || !tried },
            { "reason",             planned.kv || !tried ? json() : json(planned.reason) },
            { "contextSize",        n_ctx },
            { "kv",                 planned.kv ? describe(*planned.kv) : json() },
            { "draftKv",            draft ? describe(*draft) : json() },
            { "weightsBytes",       sum(&device_memory::weights_bytes) },
            { "contextBytes",       sum(&device_memory::context_bytes) },
            { "computeBytes",       sum(&device_memory::compute_bytes) },
            { "devices",            describe(devices) },
            { "fits",               planned.kv && fits(devices) },
            { "largestContextSize", planned.kv || !tried ? json(largest) : json() },
            { "warnings",           planned.kv ? warnings_of(m, planned.kv->n_ctx_seq) : json::array() },
        };
        return result;
    });
}

} // namespace duo::abi
