#include "sequence.h"

#include "handle-table.h"

#include <algorithm>

namespace duo::abi {

void sequence::publish() {
    length_         = int32_t(cells.tokens.size());
    resumable_from_ = int32_t(std::min(cells.resumable_from(), cells.tokens.size()));
}

void sequence::add_job(const std::shared_ptr<job> & j) {
    std::lock_guard lock(mutex);
    jobs.erase(std::remove_if(jobs.begin(), jobs.end(), [](const auto & w) { return w.expired(); }), jobs.end());
    jobs.push_back(j);
}

void sequence::cancel_jobs() {
    std::vector<std::weak_ptr<job>> given;
    {
        std::lock_guard lock(mutex);
        given = jobs;
    }
    for (const auto & w : given) {
        if (const auto j = w.lock()) {
            j->cancel();
        }
    }
}

void free_sequence(const std::shared_ptr<sequence> & s) {
    if (const auto c = s->ctx()) {
        c->sched->release(s);
    }
}

void want_last_logits(cache_sequence & s) {
    if (s.tokens.empty()) {
        throw job_error("state", "the sequence is empty: append tokens to it first");
    }
    if (s.n_pending() == 0) {
        const llama_token token  = s.tokens.back();
        const size_t      length = s.tokens.size();
        if (!s.cut(length - 1)) {
            throw job_error("state", "the logits of the sequence's last token have been used, and its cache cannot go back by a token to compute them again",
                    { { "resumableFrom", s.resumable_from() } });
        }
        s.tokens.push_back(token);
    }
    s.logits_from = s.tokens.size() - 1;
}

namespace {

// What all tasks on a handle's sequence have in common.
class sequence_task : public task {
public:
    using task::task;

    void computed(cache_sequence &, const computed_piece &) override {}

    void no_room(cache_sequence & s) override {
        throw job_error("full", "the cache has no room for the sequence's " + std::to_string(s.tokens.size()) + " tokens: it holds " + std::to_string(s.n_cached));
    }

protected:
    // The job's end: what the sequence is by now, and more.
    void finish_with(json more = json::object()) {
        on->publish();
        j->finish([&] {
            json result = on->describe();
            result.update(more);
            return result;
        });
    }
};

// --- create, fork ---

// Makes a handle for a sequence that is free so far.
class new_sequence_task : public sequence_task {
public:
    new_sequence_task(std::shared_ptr<job> j, std::shared_ptr<sequence> from, const std::shared_ptr<context> & c) : sequence_task(std::move(j), std::move(from)), c(c) {}

    size_t n_free() const override { return 1; }

    void start(const std::vector<cache_sequence *> & own) override {
        cache_sequence & cells = *own.back();
        cells.cut(0);
        if (on && !cells.copy(on->cells)) {
            throw job_error("unsupported", "the context's cache cannot copy a sequence");
        }
        const auto ctx  = c.lock(); // alive: this is its thread
        const auto made = std::make_shared<sequence>(ctx, cells);
        j->finish([&] {
            json result = { { "sequence", handles().add(made, j->owner) } };
            result.update(made->describe());
            kept = true;
            return result;
        });
    }

    bool keeps(const cache_sequence &) const override { return kept; }

private:
    const std::weak_ptr<context> c;
    bool                         kept = false;
};

// --- append, truncate ---

class append : public sequence_task {
public:
    append(std::shared_ptr<job> j, std::shared_ptr<sequence> s, std::shared_ptr<model> m, size_t n_ctx, prompt p)
        : sequence_task(std::move(j), std::move(s)), m(std::move(m)), n_ctx(n_ctx), given(std::move(p)) {}

    bool is_long() const override { return given.is_long(); }
    void prepare() override { tokens = given.tokens(*j, *m, 1); }

    void start(const std::vector<cache_sequence *> & own) override {
        cache_sequence & s = *own.front();
        check_room(s, tokens.size(), n_ctx);
        before = s.tokens.size();
        s.tokens.insert(s.tokens.end(), tokens.begin(), tokens.end());
        s.logits.clear();
        end_where_computed(s);
    }

    // The last token waits for what is done next, which may want its logits.
    bool   wants(const cache_sequence & s, bool) override { return s.n_pending() > 1; }
    size_t max_piece() const override { return on->cells.n_pending() - 1; }

    void computed(cache_sequence & s, const computed_piece &) override { end_where_computed(s); }

    void no_room(cache_sequence & s) override {
        const size_t held = s.n_cached;
        s.tokens.resize(std::max(before, held));
        throw job_error("full", "the cache has no room for the " + std::to_string(tokens.size()) + " tokens to append to " + std::to_string(before) + ": it holds " +
                std::to_string(held));
    }

    static void check_room(const cache_sequence & s, size_t n, size_t n_ctx) {
        if (s.tokens.size() + n > n_ctx) {
            throw job_error("full", "the sequence has " + std::to_string(s.tokens.size()) + " tokens, and with " + std::to_string(n) + " more it would exceed the " +
                    std::to_string(n_ctx) + " that it can hold");
        }
    }

private:
    const std::shared_ptr<model> m;
    const size_t                 n_ctx;
    const prompt                 given;
    std::vector<llama_token>     tokens;
    size_t                       before = 0;

    void end_where_computed(cache_sequence & s) {
        j->set_progress(std::max(0.0, 1 - (double(s.n_pending()) - 1) / double(tokens.size())));
        if (s.n_pending() <= 1) {
            finish_with({ { "appendedTokens", tokens.size() } });
        }
    }
};

class truncate : public sequence_task {
public:
    truncate(std::shared_ptr<job> j, std::shared_ptr<sequence> s, size_t length) : sequence_task(std::move(j), std::move(s)), length(length) {}

    void start(const std::vector<cache_sequence *> & own) override {
        cache_sequence & s = *own.front();
        if (length > s.tokens.size()) {
            throw option_error("length", length, "an integer from 0 to " + std::to_string(s.tokens.size()) + ", the sequence's length");
        }
        if (!s.cut(length)) {
            const size_t from = s.resumable_from();
            throw job_error("state", "the sequence cannot be cut to " + std::to_string(length) + " tokens exactly: its cache goes back to " + std::to_string(from) +
                    " of " + std::to_string(s.tokens.size()) + ", or to none. Append the tokens again to an empty sequence", { { "resumableFrom", from } });
        }
        finish_with();
    }

private:
    const size_t length;
};

// --- logits ---

class last_logits : public sequence_task {
public:
    last_logits(std::shared_ptr<job> j, std::shared_ptr<sequence> s, const context & c) : sequence_task(std::move(j), std::move(s)), ctx(c.ptr.get()), m(c.mdl) {}

    void start(const std::vector<cache_sequence *> & own) override {
        cache_sequence & s = *own.front();
        if (s.logits.empty()) {
            want_last_logits(s);
        } else {
            hand_over(s);
        }
    }

    void computed(cache_sequence & s, const computed_piece & p) override {
        if (s.n_pending() > 0) {
            return;
        }
        const float * logits = llama_get_logits_ith(ctx, p.i_batch + int32_t(p.n) - 1);
        if (!logits) {
            throw job_error("decode", "llama.cpp gave no logits for the last token");
        }
        s.logits.assign(logits, logits + llama_vocab_n_tokens(m->vocab));
        hand_over(s);
    }

private:
    llama_context * const        ctx;
    const std::shared_ptr<model> m;

    void hand_over(cache_sequence & s) {
        j->set_data(s.logits);
        finish_with();
    }
};

} // namespace

std::shared_ptr<task> create_sequence_task(std::shared_ptr<job> j, const std::shared_ptr<context> & c) {
    return std::make_shared<new_sequence_task>(std::move(j), nullptr, c);
}

std::shared_ptr<task> fork_task(std::shared_ptr<job> j, const std::shared_ptr<context> & c, std::shared_ptr<sequence> s) {
    return std::make_shared<new_sequence_task>(std::move(j), std::move(s), c);
}

std::shared_ptr<task> append_task(std::shared_ptr<job> j, const std::shared_ptr<context> & c, std::shared_ptr<sequence> s, prompt p) {
    return std::make_shared<append>(std::move(j), std::move(s), c->mdl, c->n_ctx_seq(), std::move(p));
}

std::shared_ptr<task> truncate_task(std::shared_ptr<job> j, std::shared_ptr<sequence> s, size_t length) {
    return std::make_shared<truncate>(std::move(j), std::move(s), length);
}

std::shared_ptr<task> logits_task(std::shared_ptr<job> j, const std::shared_ptr<context> & c, std::shared_ptr<sequence> s) {
    return std::make_shared<last_logits>(std::move(j), std::move(s), *c);
}

} // namespace duo::abi
