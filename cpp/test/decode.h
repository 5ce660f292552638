// Decoding in tests: random tokens, prompts in pieces, and the logits that come out.
#pragma once

#include "check.h"
#include "contexts.h"

#include "gate-pattern.h"
#include "llama-model.h"
#include "llama.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

// From this run's seed, printed at the first call.
inline uint64_t fresh_seed() {
    static std::mt19937_64 rng(check::seed());
    return rng();
}

inline std::vector<llama_token> random_tokens(int n, int n_vocab, uint64_t seed) {
    std::mt19937_64 rng(seed);
    std::vector<llama_token> out(n);
    for (llama_token & t : out) {
        t = llama_token(rng() % n_vocab);
    }
    return out;
}

// Random gates for a model, as JSON.
inline std::string random_gates(const llama_model * model, uint64_t seed) {
    std::mt19937_64 rng(seed);
    duo::gate_pattern pattern;
    pattern.n_layer = int32_t(model->hparams.n_layer());
    for (int32_t il = 0; il < pattern.n_layer; ++il) {
        pattern.n_head_layer.push_back(int32_t(model->hparams.n_head_kv(il)));
        pattern.n_head_kv = std::max(pattern.n_head_kv, pattern.n_head_layer.back());
    }
    for (int32_t i = 0; i < pattern.n_layer * pattern.n_head_kv; ++i) {
        const bool real = i % pattern.n_head_kv < pattern.n_head_layer[i / pattern.n_head_kv];
        pattern.gates.push_back(real ? (rng() % 1000) / 1000.0f : 0.0f);
    }
    return duo::gate_pattern_to_json(pattern);
}

// Decodes tokens on a sequence from a position; appends the logits of each where all is set, else of the last.
inline int decode(llama_context * ctx, const llama_token * tokens, int n, int position, bool all, std::vector<float> & logits, llama_seq_id seq = 0) {
    llama_batch batch = llama_batch_init(n, 0, 1);
    for (int i = 0; i < n; ++i) {
        batch.token[i]     = tokens[i];
        batch.pos[i]       = position + i;
        batch.n_seq_id[i]  = 1;
        batch.seq_id[i][0] = seq;
        batch.logits[i]    = all || i == n - 1;
    }
    batch.n_tokens = n;
    const int status = llama_decode(ctx, batch);
    if (status == 0) {
        const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)));
        for (int i = 0; i < n; ++i) {
            if (batch.logits[i]) {
                const float * x = llama_get_logits_ith(ctx, i);
                logits.insert(logits.end(), x, x + n_vocab);
            }
        }
    }
    llama_batch_free(batch);
    return status;
}

// Logits of a prompt in pieces: of all its tokens where all is set, else of the last.
inline std::vector<float> prefill(llama_context * ctx, const std::vector<llama_token> & tokens, int piece, bool all = false) {
    llama_memory_clear(llama_get_memory(ctx), true);
    std::vector<float> logits;
    for (size_t i = 0; i < tokens.size(); i += piece) {
        if (!all) {
            logits.clear();
        }
        const int n = int(std::min<size_t>(piece, tokens.size() - i));
        CHECK_EQ(decode(ctx, tokens.data() + i, n, int(i), all, logits), 0);
    }
    return logits;
}

// The worst over tokens.
inline double worst_relative(const std::vector<float> & a, const std::vector<float> & b, size_t n_vocab) {
    double worst = a.size() == b.size() && !a.empty() ? 0.0 : NAN;
    for (size_t i = 0; i + n_vocab <= a.size(); i += n_vocab) {
        const double e = relative(a.data() + i, b.data() + i, n_vocab);
        worst = e <= worst ? worst : e;
    }
    return worst;
}
