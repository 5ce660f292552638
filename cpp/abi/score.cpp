#include "score.h"

#include "log-softmax.h"
#include "sequence.h"

#include <algorithm>
#include <chrono>

namespace duo::abi {

// Logits held at once, in numbers: a ubatch of a large vocabulary would take gigabytes.
static constexpr size_t max_logits = size_t(1) << 26;

score_options score_options::read(options o, size_t n_tokens) {
    score_options result;
    result.from = size_t(o.integer("from", 1, std::max<int64_t>(1, int64_t(n_tokens) - 1)).value_or(1));
    o.finish();
    return result;
}

namespace {

class scoring : public task {
public:
    scoring(std::shared_ptr<job> j, const context & c, std::shared_ptr<sequence> on, prompt p, score_options o)
        : task(std::move(j), std::move(on)), ctx(c.ptr.get()), m(c.mdl), n_ctx(c.n_ctx_seq()), given(std::move(p)), from(o.from) {}

    bool is_long() const override { return given.is_long(); }

    void prepare() override {
        tokens = given.tokens(*j, *m, on ? 1 : 2);
        if (on) {
            return;
        }
        const size_t n_input = tokens.size() - 1;  // nothing is predicted from the last token
        if (n_input > n_ctx) {
            throw job_error("full", "there are " + std::to_string(tokens.size()) + " tokens to score, and a sequence of the context holds " + std::to_string(n_ctx));
        }
        if (from > n_input) { // a text's number of tokens is not known before
            throw option_error("from", from, "an integer from 1 to " + std::to_string(n_input));
        }
        // token i is predicted at position i - 1: all before that of the first scored token may be in the cache already
        before.assign(tokens.begin(), tokens.begin() + int64_t(from));
    }

    const std::vector<llama_token> & prefix() const override { return before; }

    void start(const std::vector<cache_sequence *> & own) override {
        started = std::chrono::steady_clock::now();
        s = own.front();
        if (on) {
            start_on(*s);
        } else {
            if (!s->cut(s->n_common(before))) {
                s->cut(0);
            }
            s->tokens.assign(tokens.begin(), tokens.end() - 1);
        }
        s->logits_from = from - 1;
        s->logits.clear();
        n_input  = tokens.size() - 1;
        n_reused = s->n_cached;
        scores.reserve(n_input + 1 - from);
        finish_at_end();
    }

    size_t max_piece() const override {
        const size_t n_piece = std::max<size_t>(1, max_logits / size_t(llama_vocab_n_tokens(m->vocab)));
        return std::min(n_piece, n_input - s->n_cached);
    }

    void computed(cache_sequence & s, const computed_piece & p) override {
        for (size_t i = std::max(p.first, s.logits_from); i < p.first + p.n; i++) {
            const float * logits = llama_get_logits_ith(ctx, p.i_batch + int32_t(i - p.first));
            if (!logits) {
                throw job_error("decode", "llama.cpp gave no logits for token " + std::to_string(i));
            }
            scores.push_back(log_softmax(logits, size_t(llama_vocab_n_tokens(m->vocab)), tokens[i + 1]));
        }
        j->set_progress(double(s.n_cached) / double(n_input));
        finish_at_end();
    }

    void no_room(cache_sequence & s) override {
        throw job_error("full", "the cache has no room for the " + std::to_string(tokens.size()) + " tokens to score: it held " + std::to_string(s.n_cached) + " of them");
    }

private:
    llama_context * const        ctx;
    const std::shared_ptr<model> m;
    const size_t                 n_ctx;
    const prompt       given;

    size_t                   from;
    std::vector<llama_token> tokens; // from the sequence's first on
    std::vector<llama_token> before; // the first scored one
    cache_sequence *         s        = nullptr;
    size_t                   n_input  = 0;
    size_t                   n_reused = 0;
    std::vector<double>      scores;

    std::chrono::steady_clock::time_point started;

    // Appends the tokens, the last of which waits for what is done next.
    void start_on(cache_sequence & s) {
        if (s.tokens.size() + tokens.size() > n_ctx) {
            throw job_error("full", "the sequence has " + std::to_string(s.tokens.size()) + " tokens, and with " + std::to_string(tokens.size()) +
                    " to score it would exceed the " + std::to_string(n_ctx) + " that it can hold");
        }
        if (s.tokens.empty() && tokens.size() < 2) {
            throw job_error("state", "the sequence is empty, and its first token has no probability: give more than one, or append it");
        }
        from = std::max<size_t>(s.tokens.size(), 1);
        if (!s.tokens.empty()) {
            want_last_logits(s);
        }
        s.tokens.insert(s.tokens.end(), tokens.begin(), tokens.end());
        tokens = s.tokens;
    }

    void finish_at_end() {
        if (s->n_cached < n_input) {
            return;
        }
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
        if (on) {
            on->publish();
        }
        j->set_data(scores);
        j->finish([&] {
            json result = { { "reusedTokens", n_reused }, { "seconds", seconds } };
            if (on) {
                result.update(on->describe());
            }
            return result;
        });
    }
};

} // namespace

std::shared_ptr<task> score_task(std::shared_ptr<job> j, const context & c, std::shared_ptr<sequence> on, prompt p, score_options o) {
    return std::make_shared<scoring>(std::move(j), c, std::move(on), std::move(p), o);
}

} // namespace duo::abi
