#include "generate.h"

#include "log.h"
#include "duo-interrupt.h"
#include "stop-text.h"
#include "utf8-assembler.h"
#include "utf8.h"

#include "llama-grammar.h"
#include "sampling.h"

#include <algorithm>
#include <cfloat>
#include <chrono>
#include <cmath>
#include <cstring>

namespace duo::abi {

// --- options ---

// llama.cpp parses groups and follows references by recursion: within these bounds its stack does for any grammar, and they are far from any that has a use
static constexpr int    max_grammar_depth = 256;
static constexpr size_t max_grammar_size  = 256 * 1024; // bytes

// How many groups of a GBNF grammar are open at once, at most. Parentheses within literals, character classes, tokens and comments open none.
static int grammar_depth(const std::string & text) {
    int depth = 0, deepest = 0;
    for (size_t i = 0; i < text.size(); ++i) {
        const auto skip_to = [&](const char * ends, bool escapes) {
            while (++i < text.size() && !strchr(ends, text[i])) {
                i += escapes && text[i] == '\\';
            }
        };
        switch (text[i]) {
            case '(': deepest = std::max(deepest, ++depth); break;
            case ')': --depth;                break;
            case '"': skip_to("\"", true);    break;
            case '[': skip_to("]", true);     break;
            case '<': skip_to(">", false);    break;
            case '#': skip_to("\r\n", false); break;
        }
    }
    return deepest;
}

generate_options generate_options::read(options o, const model & m) {
    generate_options result;
    common_params_sampling & s = result.sampling;
    s.no_perf = true;

    result.max_tokens     = o.integer("maxTokens", -1, INT32_MAX).value_or(result.max_tokens);
    result.ignore_eos     = o.boolean("ignoreEos").value_or(result.ignore_eos);
    result.special_tokens = o.boolean("specialTokens").value_or(result.special_tokens);
    result.reuse          = o.boolean("reuse").value_or(result.reuse);
    result.window         = size_t(o.integer("window", 1, INT32_MAX).value_or(int64_t(result.window)));

    s.temp  = float(o.number("temperature", 0, FLT_MAX).value_or(s.temp));
    s.top_k = int32_t(o.integer("topK", 0, INT32_MAX).value_or(s.top_k));
    s.top_p = float(o.number("topP", 0, 1).value_or(s.top_p));
    s.min_p = float(o.number("minP", 0, 1).value_or(s.min_p));
    s.typ_p = float(o.number("typicalP", 0, 1).value_or(s.typ_p));
    s.seed  = uint32_t(o.integer("seed", 0, UINT32_MAX).value_or(s.seed));

    // its inverse must be finite too
    s.penalty_repeat  = float(o.number("repeatPenalty", 0.001, 1000).value_or(s.penalty_repeat));
    s.penalty_last_n  = int32_t(o.integer("repeatLastN", -1, INT32_MAX).value_or(s.penalty_last_n));
    s.penalty_freq    = float(o.number("frequencyPenalty", -FLT_MAX, FLT_MAX).value_or(s.penalty_freq));
    s.penalty_present = float(o.number("presencePenalty", -FLT_MAX, FLT_MAX).value_or(s.penalty_present));

    if (const auto grammar = o.string("grammar"); grammar && !grammar->empty()) {
        if (!m.has_vocab()) {
            throw o.error("grammar", "no grammar: the model has no vocabulary");
        }
        // another grammar language, for which llama.cpp aborts the process where it was left out of the build
        if (grammar->rfind("%llguidance", 0) == 0) {
            throw o.error("grammar", "a GBNF grammar");
        }
        if (grammar->size() > max_grammar_size) {
            throw o.error("grammar", "at most " + std::to_string(max_grammar_size) + " bytes, found " + std::to_string(grammar->size()));
        }
        if (const int depth = grammar_depth(*grammar); depth > max_grammar_depth) {
            throw o.error("grammar", "at most " + std::to_string(max_grammar_depth) + " parentheses open at once, found " + std::to_string(depth));
        }
        s.grammar = { COMMON_GRAMMAR_TYPE_USER, *grammar };
    }
    if (const json * stop = o.value("stop")) {
        for (const auto & text : stop->is_array() ? *stop : json::array({ json() })) {
            if (!text.is_string() || text == "") {
                throw o.error("stop", "an array of non-empty strings");
            }
            result.stop.push_back(text.get<std::string>());
        }
    }
    o.finish();

    if (result.ignore_eos) {
        for (llama_token t = 0; t < llama_vocab_n_tokens(m.vocab); t++) {
            if (llama_vocab_is_eog(m.vocab, t)) {
                s.logit_bias.push_back({ t, -INFINITY });
            }
        }
    }
    return result;
}

namespace {

class stopwatch {
public:
    double seconds() const { return std::chrono::duration<double>(clock::now() - start).count(); }

private:
    using clock = std::chrono::steady_clock;
    clock::time_point start = clock::now();
};

double rate(size_t n, double seconds) {
    return n > 0 && seconds > 0 ? double(n) / seconds : 0;
}

} // namespace

// --- grammars ---

struct grammar_deleter {
    void operator()(llama_grammar * g) const { llama_grammar_free_impl(g); }
};
using grammar_ptr = std::unique_ptr<llama_grammar, grammar_deleter>;

static grammar_ptr parse_grammar(const model & m, const common_params_sampling & params) {
    log_capture errors;
    const std::string & text = common_grammar_value(params.grammar);
    grammar_ptr parsed(llama_grammar_init_impl(m.vocab, text.c_str(), "root", /*lazy=*/ false, nullptr, 0, nullptr, 0));
    if (!parsed) {
        throw option_error("grammar", text, "a GBNF grammar with a root rule (" + errors.reason("it does not parse") + ")");
    }
    return parsed;
}

// Whether the text of these tokens, which the grammar allows, is one that the grammar describes in full. The sampler does not tell, so they are read again.
static bool is_complete(const model & m, const common_params_sampling & params, const std::vector<llama_token> & tokens) {
    const grammar_ptr grammar = parse_grammar(m, params);
    for (const llama_token t : tokens) {
        llama_grammar_accept_impl(*grammar, t);
    }
    const auto & stacks = llama_grammar_get_stacks(grammar.get());
    return std::any_of(stacks.begin(), stacks.end(), [](const auto & stack) { return stack.empty(); });
}

// --- the loop ---

// A sampler that has nothing to choose from chooses all the same: what it took then has a probability of 0.
static bool nothing_allowed(common_sampler * sampler) {
    const llama_token_data_array * candidates = common_sampler_get_candidates(sampler, /*do_sort=*/ false);
    return candidates->selected < 0 || candidates->data[candidates->selected].logit == -INFINITY;
}

static common_sampler_ptr make_sampler(const context & c, const std::vector<llama_token> & prompt, const generate_options & o) {
    common_params_sampling params = o.sampling;
    // -1 is the whole context, and no more than that can ever be looked back on
    const int32_t n_ctx = int32_t(llama_n_ctx_seq(c.ptr.get()));
    params.penalty_last_n = params.penalty_last_n < 0 ? n_ctx : std::min(params.penalty_last_n, n_ctx);

    if (!params.grammar.empty()) {
        parse_grammar(*c.mdl, params); // common_sampler_init leaks where the grammar is wrong, so it only gets one that parses
    }

    common_sampler_ptr sampler(common_sampler_init(c.mdl->ptr.get(), params));
    for (const llama_token t : prompt) {
        common_sampler_accept(sampler.get(), t, /*is_generated=*/ false);
    }
    return sampler;
}

// Leaves the prompt in the cache and the logits of its last token ready; returns how many tokens were there already.
static size_t prefill(job & j, context & c, const std::vector<llama_token> & prompt, bool reuse) {
    if (reuse) {
        c.keep_prefix(prompt);
    } else {
        c.clear();
    }

    // a piece is a ubatch, the unit that llama.cpp works in: a larger piece would only make progress and cancelling coarser
    const size_t n_reused = c.cached().size();
    const size_t n_piece  = llama_n_ubatch(c.ptr.get());

    for (size_t n_done = n_reused; n_done < prompt.size();) {
        j.throw_if_cancelled();
        j.set_progress(double(n_done) / double(prompt.size()));

        const size_t n    = std::min(n_piece, prompt.size() - n_done);
        const bool   last = n_done + n == prompt.size();
        if (!c.append(j, &prompt[n_done], n, last ? 1 : 0)) {
            throw job_error("full", "the cache has no room for the prompt's " + std::to_string(prompt.size()) + " tokens: it held " +
                    std::to_string(n_done) + " of them");
        }
        n_done += n;
    }
    llama_synchronize(c.ptr.get());
    j.set_progress(1);
    return n_reused;
}

void generate(job & j, context & c, const std::vector<llama_token> & prompt, const generate_options & o) {
    const size_t n_ctx = llama_n_ctx_seq(c.ptr.get());
    if (prompt.size() > n_ctx) {
        throw job_error("full", "the prompt has " + std::to_string(prompt.size()) + " tokens, and a sequence of the context holds " +
                std::to_string(n_ctx));
    }
    j.set_window(o.window);

    const auto sampler = make_sampler(c, prompt, o);

    const stopwatch prefill_time;
    const size_t    n_reused        = prefill(j, c, prompt, o.reuse);
    const double    prefill_seconds = prefill_time.seconds();

    utf8_assembler utf8;
    stop_text      stops(o.stop);
    std::string    stop           = "length";
    llama_token    token          = LLAMA_TOKEN_NULL;
    size_t         n_decoded      = 0;
    double         paused_seconds = 0;

    std::vector<llama_token> generated;
    std::string              answer;
    const auto hand_on = [&](llama_token token, const std::string & text) {
        const stopwatch pause;
        answer += text;
        j.push(token, text);
        paused_seconds += pause.seconds();
    };
    // a grammar may take long for a token
    const duo_interrupt interrupt([&] { j.throw_if_cancelled(); });

    const stopwatch decode_time;
    while (int64_t(generated.size()) != o.max_tokens) {
        if (!generated.empty()) {
            if (c.cached().size() == n_ctx || !c.append(j, &token, 1, 1)) {
                stop = "full";
                break;
            }
            n_decoded++;
        }
        j.throw_if_cancelled();

        token = common_sampler_sample(sampler.get(), c.ptr.get(), -1);
        const bool stuck = !o.sampling.grammar.empty() && nothing_allowed(sampler.get());
        // the end of a grammar is an end with ignoreEos, too, which leaves no token for it
        if (stuck ? is_complete(*c.mdl, o.sampling, generated) : llama_vocab_is_eog(c.mdl->vocab, token)) {
            stop = "eos";
            break;
        }
        if (stuck) {
            const std::string rest = stops.feed(utf8.flush());
            hand_on(LLAMA_TOKEN_NULL, rest + stops.flush());
            throw job_error("grammar", "the grammar allows no token of the model's vocabulary after " + std::to_string(generated.size()) +
                    " tokens, and the text is not complete by then: " + excerpt(dump(answer), 200), { { "text", answer } });
        }
        common_sampler_accept(sampler.get(), token, /*is_generated=*/ true);

        // without a vocabulary tokens have no text
        const std::string bytes = c.mdl->has_vocab() ? common_token_to_piece(c.mdl->vocab, token, o.special_tokens) : "";
        const std::string text  = stops.feed(utf8.feed(bytes));

        generated.push_back(token);
        hand_on(token, text);
        if (stops.found()) {
            break;
        }
    }
    const double decode_seconds = decode_time.seconds() - paused_seconds;

    if (!stops.found()) {
        const std::string rest = stops.feed(utf8.flush());
        hand_on(LLAMA_TOKEN_NULL, rest + stops.flush());
    }
    if (stops.found()) {
        stop = "text";
    }

    const size_t n_prefilled = prompt.size() - n_reused;
    j.finish([&] {
        return json {
            { "stop",                   stop },
            { "stopText",               stops.found() ? json(*stops.found()) : json() },
            { "promptTokens",           prompt.size() },
            { "reusedTokens",           n_reused },
            { "generatedTokens",        generated.size() },
            { "prefillSeconds",         prefill_seconds },
            { "decodeSeconds",          decode_seconds },
            { "prefillTokensPerSecond", rate(n_prefilled, prefill_seconds) },
            { "decodeTokensPerSecond",  rate(n_decoded, decode_seconds) },
        };
    });
}

} // namespace duo::abi
