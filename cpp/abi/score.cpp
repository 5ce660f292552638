#include "score.h"

#include "log-softmax.h"

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

void score(job & j, context & c, const std::vector<llama_token> & tokens, const score_options & o) {
    const size_t n_ctx   = llama_n_ctx_seq(c.ptr.get());
    const size_t n_input = tokens.size() - 1;  // nothing is predicted from the last token
    if (n_input > n_ctx) {
        throw job_error("full", "there are " + std::to_string(tokens.size()) + " tokens to score, and a sequence of the context holds " +
                std::to_string(n_ctx));
    }

    if (o.from > n_input) { // a text's number of tokens is not known before
        throw option_error("from", o.from, "an integer from 1 to " + std::to_string(n_input));
    }

    // token i is predicted at position i - 1: all before that of the first scored token may be in the cache already
    c.keep_prefix({ tokens.begin(), tokens.begin() + int64_t(o.from) });

    const auto   start    = std::chrono::steady_clock::now();
    const size_t n_reused = c.cached().size();
    const size_t n_vocab  = size_t(llama_vocab_n_tokens(c.mdl->vocab));
    const size_t n_piece  = std::clamp<size_t>(max_logits / n_vocab, 1, llama_n_ubatch(c.ptr.get()));

    std::vector<double> scores;
    scores.reserve(n_input + 1 - o.from);
    for (size_t n_done = n_reused; n_done < n_input;) {
        j.throw_if_cancelled();
        j.set_progress(double(n_done) / double(n_input));

        const size_t n     = std::min(n_piece, n_input - n_done);
        const size_t first = std::max(n_done, o.from - 1);  // the first position with a wanted prediction
        const size_t n_out = n_done + n - std::min(first, n_done + n);
        if (!c.append(j, &tokens[n_done], n, n_out)) {
            throw job_error("full", "the cache has no room for the " + std::to_string(tokens.size()) + " tokens to score: it held " +
                    std::to_string(n_done) + " of them");
        }
        for (size_t i = n_done + n - n_out; i < n_done + n; i++) {
            const float * logits = llama_get_logits_ith(c.ptr.get(), int32_t(i - n_done));
            if (!logits) {
                throw job_error("decode", "llama.cpp gave no logits for token " + std::to_string(i));
            }
            scores.push_back(log_softmax(logits, n_vocab, tokens[i + 1]));
        }
        n_done += n;
    }

    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    j.set_data(scores);
    j.finish([&] { return json { { "reusedTokens", n_reused }, { "seconds", seconds } }; });
}

} // namespace duo::abi
