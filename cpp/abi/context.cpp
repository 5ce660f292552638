#include "context.h"

#include "gates.h"
#include "handle-table.h"
#include "log.h"
#include "process.h"

#include "common.h"
#include "duo-report.h"
#include "gate-pattern.h"
#include "ggml.h"
#include "llama-arch.h"
#include "llama-model.h"

#include <algorithm>

namespace duo::abi {

// --- options ---

static ggml_type cache_type(options & o, const char * key, ggml_type otherwise) {
    const auto & types = duo_cache_types();
    std::vector<std::string> names;
    for (const ggml_type t : types) {
        names.push_back(ggml_type_name(t));
    }

    const auto name = o.one_of(key, names);
    return name ? types[std::find(names.begin(), names.end(), *name) - names.begin()] : otherwise;
}

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

    duo.sink   = int32_t(o.integer("sink",   0, INT32_MAX).value_or(duo.sink));
    duo.recent = int32_t(o.integer("recent", 0, INT32_MAX).value_or(duo.recent));
    duo.chunk  = int32_t(o.integer("chunk",  1, INT32_MAX).value_or(duo.chunk));
    o.finish();
}

static constexpr int64_t max_context = INT32_MAX - 255; // so that it can be padded

context_options context_options::read(options o) {
    context_options result = { llama_context_default_params(), {} };
    llama_context_params & p = result.params;

    p.n_ctx     = uint32_t(o.integer("contextSize", 0, max_context).value_or(0));
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
    o.finish();
    return result;
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
        { "totalBytes",     kv.total_bytes },
        { "fullBytes",      kv.full_bytes },
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
    if (m.params.vocab_only) {
        require_weights(m, "make a context with");
    }
    if (llama_model_has_encoder(m.ptr.get()) || !llama_model_has_decoder(m.ptr.get()) || llama_model_is_diffusion(m.ptr.get())) {
        throw job_error("context", "the model does not generate text token by token: encoders and diffusion models have no use for a context here");
    }
}

static void create_context(job & j, std::shared_ptr<model> m, const context_options & o, std::shared_ptr<engine_thread> thread) {
    check_can_have_context(*m);
    require_weights(*m, "make a context with");
    start_backends();

    const llama_context_params p = o.use(*m);
    if (p.duo.enabled) {
        const std::string reason = duo_unsupported(m->ptr.get(), p);
        if (!reason.empty()) {
            throw job_error("unsupported", "mixed heads do not apply: " + reason + ". Without duo options the context is as in llama.cpp");
        }
        kv_size(*m, p);  // for its typed errors
    }

    log_capture errors;
    llama_context_ptr ptr(llama_init_from_model(m->ptr.get(), p));

    static const bool armed = arm_exit_handler();
    (void) armed;

    if (!ptr) {
        throw job_error("context", errors.reason("llama.cpp could not create the context and gave no reason"));
    }
    if (!llama_get_memory(ptr.get())) {
        throw job_error("context", "the model does not generate text token by token: it has no KV cache");
    }

    const llama_context * ctx = ptr.get();
    const auto c = std::make_shared<context>(std::move(m), std::move(ptr), std::move(thread));

    json result = {
        { "context",            0 },
        { "contextSize",        llama_n_ctx(ctx) },
        { "sequences",          llama_n_seq_max(ctx) },
        { "contextPerSequence", llama_n_ctx_seq(ctx) },
        { "batchSize",          llama_n_batch(ctx) },
        { "ubatchSize",         llama_n_ubatch(ctx) },
        { "threads",            p.n_threads },
        { "threadsBatch",       p.n_threads_batch },
        { "typeK",              ggml_type_name(p.type_k) },
        { "typeV",              ggml_type_name(p.type_v) },
        { "kv",                 describe(duo_kv_size_of(ctx)) },
        { "warnings",           warnings_of(*c->mdl, llama_n_ctx_seq(ctx)) },
    };
    j.finish([&] {
        result["context"] = handles().add(c, j.owner);
        return result;
    });
}

namespace {

// Ends a thread that no context came to own, also where the job was cancelled before it ran.
struct thread_guard {
    const std::shared_ptr<engine_thread> thread = engine_thread::start();
    bool owned = false;

    thread_guard() = default;
    thread_guard(const thread_guard &) = delete;

    ~thread_guard() {
        if (!owned) {
            thread->close();
        }
    }
};

} // namespace

void submit_context(std::shared_ptr<job> j, std::shared_ptr<model> m, context_options o) {
    const auto guard = std::make_shared<thread_guard>();
    guard->thread->post(std::move(j), [guard, m = std::move(m), o = std::move(o)](job & j) {
        create_context(j, m, o, guard->thread);
        guard->owned = true;
    });
}

void free_context(std::shared_ptr<context> c, std::shared_ptr<job> j) {
    const auto thread = c->thread;
    thread->cancel();
    thread->close([c = std::move(c), j = std::move(j)]() mutable {
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

// The context itself, of a copy of the model without weights, and with nothing allocated: what llama.cpp says and takes, whatever kind of cache it is.
static plan simulate(const model & m, const llama_context_params & p) {
    llama_model_ptr weightless;
    if (!m.params.no_alloc) {
        llama_model_params params = m.params;
        params.no_alloc  = true;
        params.load_mode = LLAMA_LOAD_MODE_NONE;

        log_capture errors;
        weightless.reset(llama_model_load_from_file(m.path.c_str(), params));
        if (!weightless) {
            throw job_error("model", "cannot load \"" + m.path + "\" again: " + errors.reason("llama.cpp gave no reason"));
        }
    }

    log_capture errors;
    const llama_context_ptr ctx(llama_init_from_model(weightless ? weightless.get() : m.ptr.get(), p));
    if (!ctx) {
        return { errors.reason("llama.cpp could not create the context and gave no reason"), {} };
    }
    return { "", duo_kv_size_of(ctx.get()) };
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

    const plan planned = plan_of(m, o.use(m));
    j.finish([&] {
        return json {
            { "supported", planned.kv.has_value() },
            { "reason",    planned.kv ? json() : json(planned.reason) },
            { "kv",        planned.kv ? describe(*planned.kv) : json() },
            { "warnings",  planned.kv ? warnings_of(m, planned.kv->n_ctx_seq) : json::array() },
        };
    });
}

// --- the cache of sequence 0 ---

void context::keep_prefix(const std::vector<llama_token> & prompt) {
    size_t n = 0;
    while (n < tokens.size() && n + 1 < prompt.size() && tokens[n] == prompt[n]) {
        n++;
    }

    // a mixed-head cache can go on only after seq_pos_min; stock's keep everything here, for sliding windows are full-size by default
    if (int64_t(n) <= llama_memory_seq_pos_min(llama_get_memory(ptr.get()), 0)) {
        n = 0;
    }
    roll_back(n);
}

void context::clear() {
    roll_back(0);
}

void context::roll_back(size_t n) {
    llama_memory_t mem = llama_get_memory(ptr.get());
    if (n > 0 && llama_memory_seq_rm(mem, 0, llama_pos(n), -1)) {
        tokens.resize(n);
    } else {
        llama_memory_seq_rm(mem, 0, -1, -1);  // a whole sequence can always be removed
        tokens.clear();
    }
}

bool context::append(job & j, const llama_token * begin, size_t n, size_t n_logits) {
    std::vector<llama_token>    batch_tokens(begin, begin + n);
    std::vector<llama_pos>      pos(n);
    std::vector<int32_t>        n_seq_id(n, 1);
    std::vector<int8_t>         output(n, 0);
    llama_seq_id                seq_0 = 0;
    std::vector<llama_seq_id *> seq_id(n, &seq_0);

    for (size_t i = 0; i < n; i++) {
        pos[i] = llama_pos(tokens.size() + i);
    }
    std::fill(output.end() - int64_t(n_logits), output.end(), 1);

    log_capture errors;
    llama_set_abort_callback(ptr.get(), [](void * data) { return static_cast<job *>(data)->cancelled(); }, &j);
    const int32_t status = llama_decode(ptr.get(),
            { int32_t(n), batch_tokens.data(), nullptr, pos.data(), n_seq_id.data(), seq_id.data(), output.data() });
    llama_set_abort_callback(ptr.get(), nullptr, nullptr);

    static const bool armed = arm_exit_handler();
    (void) armed;

    if (status == 0) {
        tokens.insert(tokens.end(), begin, begin + n);
        return true;
    }

    roll_back(tokens.size());
    if (status == 1) {
        return false;
    }
    j.throw_if_cancelled();
    throw job_error("decode", "llama_decode failed with status " + std::to_string(status) + ": " + errors.reason("llama.cpp gave no reason"));
}

} // namespace duo::abi
