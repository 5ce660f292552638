// Tests on a model with real weights: its texts, and greedy decoding along another context's own choice.
#pragma once

#include "check.h"
#include "contexts.h"

#include "llama-cpp.h"
#include "llama.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

struct real_model {
    llama_model_ptr ptr;
    int             n_vocab = 0;

    // Null where there is none: what llama.cpp says is printed.
    static real_model load(const char * path) {
        llama_log_set([](ggml_log_level level, const char * text, void *) { if (level == GGML_LOG_LEVEL_ERROR) { fputs(text, stderr); } }, nullptr);
        llama_backend_init();
        real_model m;
        m.ptr.reset(llama_model_load_from_file(path, llama_model_default_params()));
        if (!m.ptr) {
            printf("cannot load %s\n", path);
            return m;
        }
        m.n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(m.ptr.get()));
        return m;
    }

    std::vector<llama_token> tokenize(const std::string & text) const {
        std::vector<llama_token> tokens(text.size() + 8);
        tokens.resize(llama_tokenize(llama_model_get_vocab(ptr.get()), text.data(), int(text.size()), tokens.data(), int(tokens.size()), true, false));
        return tokens;
    }

    // A text of at least as many characters that does not repeat in short cycles.
    static std::string long_text(size_t n_chars) {
        std::string text;
        while (text.size() < n_chars) {
            text += "The " + std::to_string(text.size() * 7919 % 1000) + "th visitor signed the book and left before noon. ";
        }
        return text;
    }

    // Tokens behind what the first sequence holds, in pieces; the last one's logits.
    std::vector<float> decode(llama_context * ctx, std::vector<llama_token> tokens, size_t piece) const {
        for (size_t i = 0; i < tokens.size(); i += piece) {
            CHECK_EQ(llama_decode(ctx, llama_batch_get_one(tokens.data() + i, int(std::min(piece, tokens.size() - i)))), 0);
        }
        const float * x = llama_get_logits_ith(ctx, -1);
        return std::vector<float>(x, x + n_vocab);
    }
};

// The best token and how far the second is behind it.
inline std::pair<llama_token, float> best(const std::vector<float> & logits) {
    const auto top = std::max_element(logits.begin(), logits.end());
    float second = -INFINITY;
    for (auto it = logits.begin(); it != logits.end(); ++it) {
        if (it != top) {
            second = std::max(second, *it);
        }
    }
    return { llama_token(top - logits.begin()), *top - second };
}

// How another context chooses along one's own greedy tokens.
struct agreement {
    int    n_same = 0; // it chose the same token
    int    n_sure = 0; // so it did, where the margin of the best is over the bar
    double worst  = 0; // relative distance of the logits
    double widest_miss = 0; // the widest margin where it chose another

    void add(const std::vector<float> & want, const std::vector<float> & found, float bar) {
        const auto [token, margin] = best(want);
        const bool same = best(found).first == token;
        n_same += same;
        n_sure += same && margin > bar;
        worst       = std::max(worst, relative(found, want));
        widest_miss = std::max(widest_miss, same ? 0.0 : double(margin));
    }
};
