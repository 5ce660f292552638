// The functions of llama-duo-abi.h: they check arguments, keep exceptions in, and hand on.
#include "llama-duo-abi.h"

#include "calibrate.h"
#include "context.h"
#include "embedder.h"
#include "engine-thread.h"
#include "estimate.h"
#include "gates.h"
#include "generate.h"
#include "handle-table.h"
#include "hub.h"
#include "job.h"
#include "log.h"
#include "lora.h"
#include "model.h"
#include "process.h"
#include "prompt.h"
#include "score.h"
#include "sequence.h"
#include "state.h"
#include "templates.h"
#include "thread-owner.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

using namespace duo::abi;

namespace {

struct status_error {
    int32_t status;
};

void check(bool ok, int32_t status = LLAMA_DUO_E_ARGUMENT) {
    if (!ok) {
        throw status_error { status };
    }
}

// Runs a function's body; nothing that it throws leaves the library.
template <class F> int32_t guarded(F && body) noexcept {
    try {
        body();
        return LLAMA_DUO_OK;
    } catch (const status_error & e) {
        return e.status;
    } catch (const too_many_handles &) {
        return LLAMA_DUO_E_LIMIT;
    } catch (...) {
        return LLAMA_DUO_E_INTERNAL;
    }
}

template <class T> std::shared_ptr<T> live(uint32_t handle) {
    auto object = handles().get<T>(handle);
    check(object != nullptr, LLAMA_DUO_E_HANDLE);
    return object;
}

// A model's handle, or that of a context, which outlives it.
std::shared_ptr<model> model_of(uint32_t handle) {
    const auto c = handles().get<context>(handle);
    return c ? c->mdl : live<model>(handle);
}

template <class T> std::shared_ptr<T> taken(uint32_t handle) {
    auto object = handles().take<T>(handle);
    check(object != nullptr, LLAMA_DUO_E_HANDLE);
    return object;
}

// n elements of the given size at from, into a buffer with room for cap of them.
void copy_out(const void * from, size_t n, size_t size, void * buf, int32_t cap, int32_t * needed) {
    check(needed && cap >= 0 && (buf || cap == 0));
    check(n <= INT32_MAX, LLAMA_DUO_E_INTERNAL);
    *needed = int32_t(n);
    check(*needed <= cap, LLAMA_DUO_E_SPACE);
    if (n > 0) {
        memcpy(buf, from, n * size);
    }
}

void copy_out(const std::string & text, void * buf, int32_t cap, int32_t * needed) {
    copy_out(text.data(), text.size(), 1, buf, cap, needed);
}

// Takes a model or context and gives it to the function that frees it as a job.
template <class T, class F> void give_back(uint32_t handle, uint32_t * job_handle, F && free) {
    check(job_handle);
    const auto j      = std::make_shared<job>(this_owner());
    auto       object = handles().exchange<T>(handle, j, j->owner, job_handle);
    check(object != nullptr, LLAMA_DUO_E_HANDLE);
    try {
        free(std::move(object), j);
    } catch (...) {
        handles().take<job>(std::exchange(*job_handle, 0));
        throw;
    }
}

void check_prompt(const int32_t * tokens, int32_t n_tokens, const void * text, int32_t n_bytes) {
    check(n_tokens >= -1);
    check(n_tokens >= 0 ? tokens || n_tokens == 0 : n_bytes >= 0 && (text || n_bytes == 0));
}

// Makes a job and calls start(job), which reads the options and posts the work; what is wrong with them is the job's failure.
template <class F> void submit(const void * json, int32_t len, uint32_t * handle, F && start) {
    check(json && len > 0 && handle);

    const auto j = std::make_shared<job>(this_owner());
    *handle = handles().add(j, j->owner);
    try {
        start(j, options::parse(json, len));
    } catch (const status_error &) {
        handles().take<job>(std::exchange(*handle, 0));
        throw;
    } catch (const job_error & e) {
        j->fail(e);
    } catch (const std::exception & e) {
        j->fail(job_error("internal", e.what()));
    }
}

// Makes a job of what make(job, context, sequence, options) returns, a task on the sequence.
template <class F> int32_t on_sequence(uint32_t handle, const void * json, int32_t len, uint32_t * job_handle, F && make) {
    return guarded([&] {
        const auto s = live<sequence>(handle);
        const auto c = s->ctx();
        check(c != nullptr, LLAMA_DUO_E_HANDLE);
        submit(json, len, job_handle, [&](std::shared_ptr<job> j, options given) { check(c->sched->post(make(j, c, s, given)), LLAMA_DUO_E_HANDLE); });
    });
}

} // namespace

int32_t llama_duo_abi_version(void) {
    return LLAMA_DUO_ABI_VERSION;
}

int32_t llama_duo_build_id(void * buf, int32_t cap, int32_t * needed) {
    return guarded([&] { copy_out(build_id(), buf, cap, needed); });
}

int32_t llama_duo_build_info(void * buf, int32_t cap, int32_t * needed) {
    return guarded([&] { copy_out(build_info(), buf, cap, needed); });
}

int32_t llama_duo_log_drain(void * buf, int32_t cap, int32_t * needed) {
    return guarded([&] {
        check(needed && cap >= 0 && (buf || cap == 0));
        const int32_t n = log_drain(static_cast<char *>(buf), cap);
        *needed = std::abs(n);
        check(n >= 0, LLAMA_DUO_E_SPACE);
    });
}

// --- jobs ---

int32_t llama_duo_job_poll(uint32_t handle, int32_t * state, double * progress) {
    return guarded([&] {
        check(state && progress);
        const auto j = live<job>(handle);
        *state    = j->state();
        *progress = j->progress();
    });
}

int32_t llama_duo_job_result(uint32_t handle, void * buf, int32_t cap, int32_t * needed) {
    return guarded([&] {
        const auto j = live<job>(handle);
        check(j->state() == LLAMA_DUO_JOB_DONE, LLAMA_DUO_E_STATE);
        copy_out(j->result(), buf, cap, needed);
    });
}

int32_t llama_duo_job_data(uint32_t handle, void * buf, int32_t cap, int32_t * needed) {
    return guarded([&] {
        const auto j = live<job>(handle);
        check(j->state() == LLAMA_DUO_JOB_DONE, LLAMA_DUO_E_STATE);
        copy_out(j->data().data(), j->data().size(), 1, buf, cap, needed);
    });
}

int32_t llama_duo_job_error(uint32_t handle, void * buf, int32_t cap, int32_t * needed) {
    return guarded([&] {
        const auto j = live<job>(handle);
        check(j->state() == LLAMA_DUO_JOB_FAILED, LLAMA_DUO_E_STATE);
        copy_out(j->error(), buf, cap, needed);
    });
}

int32_t llama_duo_job_cancel(uint32_t handle) {
    return guarded([&] { live<job>(handle)->cancel(); });
}

int32_t llama_duo_job_free(uint32_t handle) {
    return guarded([&] { taken<job>(handle)->cancel(); });
}

int32_t llama_duo_job_drain(uint32_t handle, int32_t * tokens, int32_t cap, void * text, int32_t text_cap, int32_t * info) {
    return llama_duo_job_drain_choice(handle, 0, tokens, cap, text, text_cap, info);
}

int32_t llama_duo_job_drain_choice(uint32_t handle, int32_t choice, int32_t * tokens, int32_t cap, void * text, int32_t text_cap, int32_t * info) {
    return guarded([&] {
        check(tokens && cap >= 16 && text && text_cap >= 4096 && info);
        const auto j = live<job>(handle);
        check(choice >= 0 && size_t(choice) < j->n_streams());
        const auto d = j->drain(size_t(choice), tokens, cap, static_cast<char *>(text), text_cap);
        info[0] = d.n_tokens;
        info[1] = d.n_text;
        info[2] = d.state;
        info[3] = d.more;
    });
}

int32_t llama_duo_job_drain_log_probs(uint32_t handle, int32_t choice, double * numbers, int32_t cap, int32_t * needed) {
    return guarded([&] {
        check(numbers && cap > 0 && needed);
        const auto j = live<job>(handle);
        check(choice >= 0 && size_t(choice) < j->n_streams());
        const int32_t n = j->drain_numbers(size_t(choice), numbers, cap);
        *needed = std::max(n, 0);
        check(n >= 0, LLAMA_DUO_E_SPACE);
    });
}

// --- models ---

int32_t llama_duo_model_load(const void * json, int32_t len, uint32_t * handle) {
    return guarded([&] {
        submit(json, len, handle, [](std::shared_ptr<job> j, options given) {
            run_alone(j, [o = model_options::read(given)](job & j) { load_model(j, o); });
        });
    });
}

int32_t llama_duo_model_fetch(const void * json, int32_t len, uint32_t * handle) {
    return guarded([&] {
        submit(json, len, handle, [](std::shared_ptr<job> j, options given) {
            run_alone(j, [o = fetch_options::read(given)](job & j) { fetch_model(j, o); });
        });
    });
}

int32_t llama_duo_devices(const void * json, int32_t len, uint32_t * handle) {
    return guarded([&] {
        submit(json, len, handle, [](std::shared_ptr<job> j, options given) {
            given.finish();
            run_alone(j, [](job & j) {
                start_backends();
                j.finish(describe_devices);
            });
        });
    });
}

int32_t llama_duo_model_free(uint32_t handle, uint32_t * job_handle) {
    return guarded([&] { give_back<model>(handle, job_handle, free_model); });
}

int32_t llama_duo_tokenize(uint32_t handle, const void * text, int32_t len, int32_t flags, int32_t * tokens, int32_t cap, int32_t * needed) {
    return guarded([&] {
        check(len >= 0 && (text || len == 0) && (flags & ~3) == 0);
        const auto m = model_of(handle);
        check(m->has_vocab(), LLAMA_DUO_E_STATE);
        const auto result = tokenize(*m, static_cast<const char *>(len ? text : ""), len, flags & 1, flags & 2);
        copy_out(result.data(), result.size(), sizeof(llama_token), tokens, cap, needed);
    });
}

int32_t llama_duo_tokenize_long(uint32_t handle, const void * text, int32_t len, int32_t flags, uint32_t * job_handle) {
    return guarded([&] {
        check(len >= 0 && (text || len == 0) && (flags & ~3) == 0);
        const auto m = model_of(handle);
        check(m->has_vocab(), LLAMA_DUO_E_STATE);
        submit("{}", 2, job_handle, [&](std::shared_ptr<job> j, options) {
            run_alone(j, [m, text = std::string(static_cast<const char *>(len ? text : ""), size_t(len)), flags](job & j) {
                tokenize_long(j, *m, text, flags & 1, flags & 2);
            });
        });
    });
}

int32_t llama_duo_detokenize(uint32_t handle, const int32_t * tokens, int32_t n_tokens, int32_t flags, void * buf, int32_t cap, int32_t * needed) {
    return guarded([&] {
        check(n_tokens >= 0 && (tokens || n_tokens == 0) && (flags & ~3) == 0);
        const auto m = model_of(handle);
        check(m->has_vocab(), LLAMA_DUO_E_STATE);
        for (int32_t i = 0; i < n_tokens; i++) {
            check(m->is_token(tokens[i]));
        }
        copy_out(detokenize(*m, tokens, n_tokens, flags & 1, flags & 2), buf, cap, needed);
    });
}

int32_t llama_duo_lora_load(uint32_t handle, const void * json, int32_t len, uint32_t * job_handle) {
    return guarded([&] {
        const auto m = live<model>(handle);
        submit(json, len, job_handle, [&](std::shared_ptr<job> j, options given) {
            const auto path = given.path("path");
            if (!path) {
                throw given.error("path", "the path of a GGUF file of an adapter");
            }
            given.finish();
            run_alone(j, [m, path = *path](job & j) { load_lora(j, m, path); });
        });
    });
}

int32_t llama_duo_lora_free(uint32_t handle) {
    return guarded([&] { taken<lora>(handle); });
}

// --- gate patterns ---

int32_t llama_duo_gates_read(const void * json, int32_t len, uint32_t * handle) {
    return guarded([&] {
        submit(json, len, handle, [](std::shared_ptr<job> j, options given) {
            run_alone(j, [o = gates_read_options::read(given)](job & j) { read_gates(j, o); });
        });
    });
}

int32_t llama_duo_gates_select(const void * json, int32_t len, uint32_t * handle) {
    return guarded([&] {
        submit(json, len, handle, [](std::shared_ptr<job> j, options given) {
            run_alone(j, [o = gates_select_options::read(given)](job & j) { select_heads(j, o); });
        });
    });
}

int32_t llama_duo_gates_embed(const void * json, int32_t len, uint32_t * handle) {
    return guarded([&] {
        submit(json, len, handle, [](std::shared_ptr<job> j, options given) {
            run_alone(j, [o = gates_embed_options::read(given)](job & j) { embed_gates(j, o); });
        });
    });
}

int32_t llama_duo_calibrate(uint32_t handle, const void * json, int32_t len, uint32_t * job_handle) {
    return guarded([&] {
        const auto m = live<model>(handle);
        check(json && len > 0);
        // the samples are large: they are read on the job's thread
        submit("{}", 2, job_handle, [&](std::shared_ptr<job> j, options) {
            run_alone(j, [m, text = std::string(static_cast<const char *>(json), size_t(len))](job & j) {
                const auto o = calibrate_options::read(options::parse(text.data(), int32_t(text.size())), *m);
                j.set_progress(0);  // from here on the options are known to be good
                calibrate_model(j, *m, o);
            });
        });
    });
}

// --- contexts ---

int32_t llama_duo_context_create(uint32_t handle, const void * json, int32_t len, uint32_t * job_handle) {
    return guarded([&] {
        const auto m = live<model>(handle);
        submit(json, len, job_handle, [&](std::shared_ptr<job> j, options given) { submit_context(j, m, context_options::read(given)); });
    });
}

int32_t llama_duo_context_plan(uint32_t handle, const void * json, int32_t len, uint32_t * job_handle) {
    return guarded([&] {
        const auto m = live<model>(handle);
        submit(json, len, job_handle, [&](std::shared_ptr<job> j, options given) {
            run_alone(j, [m, o = context_options::read(given)](job & j) { plan_context(j, *m, o); });
        });
    });
}

int32_t llama_duo_context_estimate(uint32_t handle, const void * json, int32_t len, uint32_t * job_handle) {
    return guarded([&] {
        const auto m = live<model>(handle);
        submit(json, len, job_handle, [&](std::shared_ptr<job> j, options given) {
            run_alone(j, [m, o = context_options::read(given)](job & j) { estimate_context(j, *m, o); });
        });
    });
}

int32_t llama_duo_context_free(uint32_t handle, uint32_t * job_handle) {
    return guarded([&] { give_back<context>(handle, job_handle, free_context); });
}

int32_t llama_duo_generate(uint32_t handle, const int32_t * tokens, int32_t n_tokens, const void * text, int32_t n_bytes, const void * json,
        int32_t len, uint32_t * job_handle) {
    return guarded([&] {
        check_prompt(tokens, n_tokens, text, n_bytes);
        const auto c = live<context>(handle);

        submit(json, len, job_handle, [&](std::shared_ptr<job> j, options given) {
            prompt p("prompt", *c->mdl, tokens, n_tokens, text, n_bytes, c->n_ctx_seq(), given);
            auto o = generate_options::read(given, *c->mdl, llama_n_seq_max(c->ptr.get()));
            check(c->sched->post(generate_task(j, *c, nullptr, std::move(p), std::move(o))), LLAMA_DUO_E_HANDLE);
        });
    });
}

int32_t llama_duo_score(uint32_t handle, const int32_t * tokens, int32_t n_tokens, const void * text, int32_t n_bytes, const void * json,
        int32_t len, uint32_t * job_handle) {
    return guarded([&] {
        check_prompt(tokens, n_tokens, text, n_bytes);
        const auto c = live<context>(handle);

        submit(json, len, job_handle, [&](std::shared_ptr<job> j, options given) {
            // nothing is read after the last token
            prompt p("text", *c->mdl, tokens, n_tokens, text, n_bytes, c->n_ctx_seq() + 1, given);
            const auto o = score_options::read(given, p.max_size());
            check(c->sched->post(score_task(j, *c, nullptr, std::move(p), o)), LLAMA_DUO_E_HANDLE);
        });
    });
}

// --- sequences ---

int32_t llama_duo_sequence_create(uint32_t handle, uint32_t * job_handle) {
    return guarded([&] {
        const auto c = live<context>(handle);
        submit("{}", 2, job_handle, [&](std::shared_ptr<job> j, options) { check(c->sched->post(create_sequence_task(j, c)), LLAMA_DUO_E_HANDLE); });
    });
}

int32_t llama_duo_sequence_free(uint32_t handle) {
    return guarded([&] { free_sequence(taken<sequence>(handle)); });
}

int32_t llama_duo_sequence_size(uint32_t handle, int32_t * length, int32_t * resumable_from) {
    return guarded([&] {
        check(length && resumable_from);
        const auto s = live<sequence>(handle);
        *length         = s->length();
        *resumable_from = s->resumable_from();
    });
}

int32_t llama_duo_sequence_fork(uint32_t handle, uint32_t * job_handle) {
    return on_sequence(handle, "{}", 2, job_handle, [](auto j, auto c, auto s, options) { return fork_task(j, c, s); });
}

int32_t llama_duo_sequence_append(uint32_t handle, const int32_t * tokens, int32_t n_tokens, const void * text, int32_t n_bytes, const void * json,
        int32_t len, uint32_t * job_handle) {
    return on_sequence(handle, json, len, job_handle, [&](auto j, auto c, auto s, options given) {
        check_prompt(tokens, n_tokens, text, n_bytes);
        prompt p("text", *c->mdl, tokens, n_tokens, text, n_bytes, c->n_ctx_seq(), given, /*add_special=*/ false);
        given.finish();
        return append_task(j, c, s, std::move(p));
    });
}

int32_t llama_duo_sequence_truncate(uint32_t handle, int32_t length, uint32_t * job_handle) {
    return on_sequence(handle, "{}", 2, job_handle, [&](auto j, auto, auto s, options) {
        check(length >= 0);
        return truncate_task(j, s, size_t(length));
    });
}

int32_t llama_duo_sequence_logits(uint32_t handle, uint32_t * job_handle) {
    return on_sequence(handle, "{}", 2, job_handle, [](auto j, auto c, auto s, options) { return logits_task(j, c, s); });
}

int32_t llama_duo_sequence_generate(uint32_t handle, const int32_t * tokens, int32_t n_tokens, const void * text, int32_t n_bytes, const void * json,
        int32_t len, uint32_t * job_handle) {
    return on_sequence(handle, json, len, job_handle, [&](auto j, auto c, auto s, options given) {
        check_prompt(tokens, n_tokens, text, n_bytes);
        prompt p("prompt", *c->mdl, tokens, n_tokens, text, n_bytes, c->n_ctx_seq(), given, /*add_special=*/ false);
        return generate_task(j, *c, s, std::move(p), generate_options::read(given, *c->mdl, llama_n_seq_max(c->ptr.get())));
    });
}

int32_t llama_duo_sequence_score(uint32_t handle, const int32_t * tokens, int32_t n_tokens, const void * text, int32_t n_bytes, const void * json,
        int32_t len, uint32_t * job_handle) {
    return on_sequence(handle, json, len, job_handle, [&](auto j, auto c, auto s, options given) {
        check_prompt(tokens, n_tokens, text, n_bytes);
        prompt p("text", *c->mdl, tokens, n_tokens, text, n_bytes, c->n_ctx_seq(), given, /*add_special=*/ false);
        given.finish();
        return score_task(j, *c, s, std::move(p), {});
    });
}

int32_t llama_duo_sequence_save(uint32_t handle, const void * json, int32_t len, uint32_t * job_handle) {
    return on_sequence(handle, json, len, job_handle, [](auto j, auto c, auto s, options given) {
        const std::string path = given.path("path").value_or("");
        given.finish();
        return save_task(j, *c, s, path);
    });
}

int32_t llama_duo_sequence_load(uint32_t handle, const void * bytes, int32_t n_bytes, const void * json, int32_t len, uint32_t * job_handle) {
    return on_sequence(handle, json, len, job_handle, [&](auto j, auto c, auto s, options given) {
        check(n_bytes >= 0 && (bytes || n_bytes == 0));
        state_place from = { given.path("path").value_or(""), {} };
        given.finish();
        if (from.path.empty()) {
            const char * begin = static_cast<const char *>(bytes);
            from.bytes.assign(begin, begin + n_bytes);
        }
        return load_task(j, *c, s, std::move(from));
    });
}

// --- embeddings ---

int32_t llama_duo_embedder_create(uint32_t handle, const void * json, int32_t len, uint32_t * job_handle) {
    return guarded([&] {
        const auto m = live<model>(handle);
        submit(json, len, job_handle, [&](std::shared_ptr<job> j, options given) {
            run_alone(j, [m, o = embedder_options::read(given)](job & j) { create_embedder(j, m, o); });
        });
    });
}

int32_t llama_duo_embedder_free(uint32_t handle, uint32_t * job_handle) {
    return guarded([&] { give_back<embedder>(handle, job_handle, free_embedder); });
}

int32_t llama_duo_embed(uint32_t handle, const void * json, int32_t len, uint32_t * job_handle) {
    return guarded([&] {
        const auto e = live<embedder>(handle);
        submit(json, len, job_handle, [&](std::shared_ptr<job> j, options given) { run_alone(j, [e, given](job & j) { embed(j, *e, given); }); });
    });
}

int32_t llama_duo_rank(uint32_t handle, const void * json, int32_t len, uint32_t * job_handle) {
    return guarded([&] {
        const auto e = live<embedder>(handle);
        submit(json, len, job_handle, [&](std::shared_ptr<job> j, options given) { run_alone(j, [e, given](job & j) { rank(j, *e, given); }); });
    });
}

// --- chats ---

int32_t llama_duo_chat_apply(uint32_t handle, const void * json, int32_t len, uint32_t * job_handle) {
    return guarded([&] {
        const auto m = model_of(handle);
        submit(json, len, job_handle, [&](std::shared_ptr<job> j, options given) {
            run_alone(j, [m, given](job & j) { apply_template(j, *m, given); });
        });
    });
}

int32_t llama_duo_chat_parse(const void * json, int32_t len, uint32_t * job_handle) {
    return guarded([&] {
        submit(json, len, job_handle, [&](std::shared_ptr<job> j, options given) { run_alone(j, [given](job & j) { parse_message(j, given); }); });
    });
}

int32_t llama_duo_schema_grammar(const void * json, int32_t len, uint32_t * job_handle) {
    return guarded([&] {
        submit(json, len, job_handle, [&](std::shared_ptr<job> j, options given) { run_alone(j, [given](job & j) { convert_schema(j, given); }); });
    });
}

// --- process ---

int32_t llama_duo_own_by_this_thread(void) {
    return guarded(own_by_this_thread);
}

int32_t llama_duo_shutdown(int32_t timeout_ms) {
    return guarded([&] {
        check(timeout_ms >= 0);
        check(cancel_all_jobs(timeout_ms), LLAMA_DUO_E_STATE);
    });
}
