#include "generate.h"

#include "duo-interrupt.h"
#include "grammar.h"
#include "sequence.h"
#include "stop-text.h"
#include "utf8-assembler.h"
#include "utf8.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace duo::abi {

// --- options ---

generate_options generate_options::read(options o, const model & m, size_t n_seq_max) {
    generate_options result;
    result.max_tokens     = o.integer("maxTokens", -1, INT32_MAX).value_or(result.max_tokens);
    result.special_tokens = o.boolean("specialTokens").value_or(result.special_tokens);
    result.reuse          = o.boolean("reuse").value_or(result.reuse);
    result.window         = size_t(o.integer("window", 1, INT32_MAX).value_or(int64_t(result.window)));
    if (const auto n = o.integer("n", 1, INT32_MAX)) {
        if (size_t(*n) > n_seq_max) {
            throw o.error("n", "an integer from 1 to " + std::to_string(n_seq_max) + ", the context's sequences");
        }
        result.n = size_t(*n);
    }
    if (const auto n_top = o.integer("logProbs", 0, llama_vocab_n_tokens(m.vocab))) {
        result.log_probs = size_t(*n_top);
    }
    if (const json * stop = o.value("stop")) {
        for (const auto & text : stop->is_array() ? *stop : json::array({ json() })) {
            if (!text.is_string() || text == "") {
                throw o.error("stop", "an array of non-empty strings");
            }
            result.stop.push_back(text.get<std::string>());
        }
    }
    result.sampling = read_sampling(o, m);
    o.finish();
    return result;
}

namespace {

using clock = std::chrono::steady_clock;

double seconds_from(clock::time_point from) {
    return std::chrono::duration<double>(clock::now() - from).count();
}

double rate(size_t n, double seconds) {
    return n > 0 && seconds > 0 ? double(n) / seconds : 0;
}

// --- the task ---

class generation : public task {
public:
    generation(std::shared_ptr<job> j, const context & c, std::shared_ptr<sequence> on, prompt p, generate_options o)
        : task(std::move(j), std::move(on)), ctx(c.ptr.get()), m(c.mdl), n_ctx(c.n_ctx_seq()), given(std::move(p)), o(std::move(o)) {
        this->j->set_streams(this->o.n, this->o.window);
    }

    size_t n_free() const override { return o.n - (on ? 1 : 0); }
    bool   is_long() const override { return given.is_long(); }
    void   prepare() override { tokens = given.tokens(*j, *m, on ? 0 : 1); }

    const std::vector<llama_token> & prefix() const override { return o.reuse ? tokens : task::prefix(); }

    void start(const std::vector<cache_sequence *> & own) override {
        queued_seconds = seconds_from(posted);
        started        = clock::now();

        cache_sequence & s = *own.front();
        if (on) {
            if (s.tokens.size() + tokens.size() > n_ctx) {
                throw job_error("full", "the sequence has " + std::to_string(s.tokens.size()) + " tokens, and with the prompt's " + std::to_string(tokens.size()) +
                        " it would exceed the " + std::to_string(n_ctx) + " that it can hold");
            }
            if (tokens.empty()) {
                want_last_logits(s);
            }
            s.logits.clear();
            s.tokens.insert(s.tokens.end(), tokens.begin(), tokens.end());
        } else {
            if (tokens.size() > n_ctx) {
                throw job_error("full", "the prompt has " + std::to_string(tokens.size()) + " tokens, and a sequence of the context holds " + std::to_string(n_ctx));
            }
            if (!o.reuse || !s.cut(s.n_common(tokens))) {
                s.cut(0);
            }
            s.tokens = tokens;
        }
        n_reused      = s.n_cached;
        s.logits_from = s.tokens.size() - 1;

        for (size_t i = 0; i < o.n; i++) {
            choices.emplace_back(o.stop);
            choices[i].s       = own[i];
            choices[i].greedy  = largest_logit::where_it_is_all(o.sampling);
            choices[i].sampler = choices[i].greedy ? nullptr : make_sampler(*m, o.sampling, i, s.tokens, n_ctx);
        }
    }

    bool wants(const cache_sequence & s, bool hurry) override {
        if (!prefilled) {
            return true;
        }
        choice & c = of(s);
        if (c.over) {
            return false;
        }
        const bool paused = !hurry && j->is_full(index(c));
        if (paused != c.paused) {
            c.paused_seconds += (paused ? -1 : 1) * seconds_from(decode_started);
            c.paused = paused;
        }
        return !paused;
    }

    // As many as are sure to be wanted where they are right: one more comes after them.
    std::optional<size_t> n_draft(const cache_sequence & s, bool hurry) const override {
        if (!prefilled) {
            return 0;
        }
        const choice & c = of(s);
        const size_t n_left = o.max_tokens < 0 ? SIZE_MAX : size_t(o.max_tokens) - c.generated.size();
        const size_t n_room = hurry ? SIZE_MAX : j->room(index(c));
        const size_t n      = std::min(n_left, n_room);
        return n == 0 ? 0 : std::min(n - 1, n_ctx - s.tokens.size());
    }

    void computed(cache_sequence & s, const computed_piece & p) override {
        const int32_t i_last = p.i_batch + int32_t(p.n) - 1;
        if (s.n_pending() > 0) { // also of a text whose cache was lost with a draft
            j->set_progress(prefilled ? 1 : double(s.n_cached) / double(s.tokens.size()));
        } else if (prefilled) {
            next_with_draft(of(s), i_last);
        } else {
            end_of_prompt(s, i_last);
        }
        finish_if_over();
    }

    void no_room(cache_sequence & s) override {
        if (!prefilled) {
            throw job_error("full", "the cache has no room for the prompt's " + std::to_string(s.tokens.size()) + " tokens: it held " + std::to_string(s.n_cached) + " of them");
        }
        s.tokens.resize(s.n_cached);
        end(of(s), "full");
        finish_if_over();
    }

private:
    // One of the texts.
    struct choice {
        explicit choice(const std::vector<std::string> & stop) : stops(stop) {}

        cache_sequence *         s = nullptr;
        std::optional<largest_logit> greedy;
        common_sampler_ptr       sampler; // where that is not all
        utf8_assembler           utf8;
        stop_text                stops;
        std::vector<llama_token> generated;
        std::string              answer;
        std::string              stop;
        size_t                   n_decoded      = 0;
        size_t                   n_drafted      = 0;
        size_t                   n_accepted     = 0; // of them
        double                   seconds        = 0;
        double                   paused_seconds = 0; // less the time of a pause's beginning, while it lasts
        bool                     paused         = false;
        bool                     over           = false;
    };

    llama_context * const        ctx;
    const std::shared_ptr<model> m;
    const size_t                 n_ctx;
    const prompt       given;
    const generate_options       o;

    std::vector<llama_token> tokens;
    std::vector<choice>      choices;
    size_t                   n_reused        = 0;
    bool                     prefilled       = false;
    double                   queued_seconds  = 0;
    double                   prefill_seconds = 0;
    clock::time_point        posted          = clock::now();
    clock::time_point        started;
    clock::time_point        decode_started;

    size_t index(const choice & c) const { return size_t(&c - choices.data()); }

    const choice & of(const cache_sequence & s) const {
        return *std::find_if(choices.begin(), choices.end(), [&](const choice & c) { return c.s == &s; });
    }

    choice & of(const cache_sequence & s) { return const_cast<choice &>(std::as_const(*this).of(s)); }

    // All choices take their first token from the same logits.
    void end_of_prompt(cache_sequence & s, int32_t i_last) {
        llama_synchronize(ctx);
        j->set_progress(1);
        prefilled       = true;
        prefill_seconds = seconds_from(started);
        decode_started  = clock::now();
        for (choice & c : choices) {
            if (c.s != &s && !c.s->copy(s)) {
                throw job_error("unsupported", "the context's cache cannot copy a sequence, so that there can be no n results");
            }
            c.s->logits_from = s.tokens.size();
        }
        for (choice & c : choices) {
            if (o.max_tokens == 0) {
                end(c, "length");
            } else {
                next(c, i_last);
            }
        }
    }

    void hand_on(choice & c, llama_token token, const std::string & text, std::vector<double> numbers = {}) {
        c.answer += text;
        j->push(index(c), token, text, std::move(numbers));
    }

    // Chooses tokens as long as the draft has the same, and one more. The last of them waits to be computed, drafted or not.
    void next_with_draft(choice & c, int32_t i_batch) {
        cache_sequence & s = *c.s;
        c.n_drafted += s.draft.size();
        for (size_t i = 0; i <= s.draft.size(); i++) {
            c.n_decoded++;
            const llama_token token = next(c, i_batch + int32_t(i));
            if (i == s.draft.size() || token != s.draft[i]) {
                break;
            }
            c.n_accepted++;
            if (c.over) {
                break;
            }
            s.n_cached++;
        }
        s.take_draft_back();
    }

    // Chooses a token, and says what comes after it: LLAMA_TOKEN_NULL where the text has ended.
    llama_token next(choice & c, int32_t i_batch) {
        const duo_interrupt interrupt([&] { j->throw_if_cancelled(); }); // a grammar may take long for a token

        const float * logits = llama_get_logits_ith(ctx, i_batch);
        if (!logits) {
            throw job_error("decode", "llama.cpp gave no logits for a token");
        }
        const llama_token token = c.greedy ? (*c.greedy)(logits, llama_vocab_n_tokens(m->vocab)) : common_sampler_sample(c.sampler.get(), ctx, i_batch);
        const bool stuck = !o.sampling.grammar.empty() && nothing_allowed(c.sampler.get());
        // the end of a grammar is an end with ignoreEos, too, which leaves no token for it
        if (stuck ? is_complete(*m, o.sampling, c.generated) : llama_vocab_is_eog(m->vocab, token)) {
            end(c, "eos");
            return LLAMA_TOKEN_NULL;
        }
        if (stuck) {
            const std::string rest = c.stops.feed(c.utf8.flush());
            hand_on(c, LLAMA_TOKEN_NULL, rest + c.stops.flush());
            throw job_error("grammar", "the grammar allows no token of the model's vocabulary after " + std::to_string(c.generated.size()) +
                    " tokens, and the text is not complete by then: " + excerpt(dump(c.answer), 200), { { "text", c.answer } });
        }
        if (c.sampler) {
            common_sampler_accept(c.sampler.get(), token, /*is_generated=*/ true);
        }

        // without a vocabulary tokens have no text
        const std::string bytes = m->has_vocab() ? common_token_to_piece(m->vocab, token, o.special_tokens || o.sampling.preserved_tokens.count(token)) : "";
        const std::string text  = c.stops.feed(c.utf8.feed(bytes));
        hand_on(c, token, text, o.log_probs ? log_probabilities(logits, size_t(llama_vocab_n_tokens(m->vocab)), token, *o.log_probs) : std::vector<double>());
        c.generated.push_back(token);

        const bool ends = c.stops.found() || int64_t(c.generated.size()) == o.max_tokens;
        const bool full = c.s->tokens.size() == n_ctx;
        if (!full && (!ends || on)) { // a handle's sequence holds what was generated on it
            c.s->tokens.push_back(token);
        }
        if (ends || full) {
            end(c, ends ? "length" : "full");
        }
        return token;
    }

    void end(choice & c, const char * stop) {
        c.stop = stop;
        if (!c.stops.found()) {
            const std::string rest = c.stops.feed(c.utf8.flush());
            hand_on(c, LLAMA_TOKEN_NULL, rest + c.stops.flush());
        }
        if (c.stops.found()) {
            c.stop = "text";
        }
        c.seconds = seconds_from(decode_started) - c.paused_seconds;
        c.over    = true;
    }

    void finish_if_over() {
        if (!prefilled || !std::all_of(choices.begin(), choices.end(), [](const choice & c) { return c.over; })) {
            return;
        }
        if (on) {
            on->publish();
        }
        const size_t n_prompt = on ? n_before + tokens.size() : tokens.size();
        j->finish([&] {
            json of_each = json::array();
            for (const choice & c : choices) {
                of_each.push_back({
                    { "stop",                  c.stop },
                    { "stopText",              c.stops.found() ? json(*c.stops.found()) : json() },
                    { "generatedTokens",       c.generated.size() },
                    { "draftedTokens",         c.n_drafted },
                    { "acceptedTokens",        c.n_accepted },
                    { "decodeSeconds",         c.seconds },
                    { "decodeTokensPerSecond", rate(c.n_decoded, c.seconds) },
                });
            }
            json result = of_each[0];
            result.update({
                { "promptTokens",           n_prompt },
                { "reusedTokens",           n_reused },
                { "queuedSeconds",          queued_seconds },
                { "prefillSeconds",         prefill_seconds },
                { "prefillTokensPerSecond", rate(n_prompt - n_reused, prefill_seconds) },
                { "choices",                of_each },
            });
            if (on) {
                result.update(on->describe());
            }
            return result;
        });
    }
};

} // namespace

std::shared_ptr<task> generate_task(std::shared_ptr<job> j, const context & c, std::shared_ptr<sequence> on, prompt p, generate_options o) {
    return std::make_shared<generation>(std::move(j), c, std::move(on), std::move(p), std::move(o));
}

} // namespace duo::abi
