// Inputs with images, as tools/mtmd hands them to models with M-RoPE: embeddings that share a position, each with a row and a column of its own.
#pragma once

#include "decode.h"

#include "duo-positions.h"
#include "llama.h"

#include <algorithm>
#include <random>
#include <vector>

// A token of a text, or one of an image (-1) with its embedding.
struct input {
    llama_token token;
    std::vector<float> embd;
    duo_positions::token at;

    friend bool operator==(const input & a, const input & b) {
        return a.token == b.token && a.embd == b.embd && a.at.pos == b.at.pos && a.at.y == b.at.y && a.at.x == b.at.x;
    }
};

// A text of n tokens.
inline void add_text(std::vector<input> & inputs, int n, int n_vocab, llama_pos & pos, std::mt19937_64 & rng) {
    for (int i = 0; i < n; ++i, ++pos) {
        inputs.push_back({ llama_token(rng() % n_vocab), {}, { pos, pos, pos } });
    }
}

// An image of width x height embeddings, and as many positions as the greater of the two.
inline void add_image(std::vector<input> & inputs, int width, int height, int n_embd, llama_pos & pos, std::mt19937_64 & rng) {
    std::normal_distribution<float> normal;
    for (int i = 0; i < width * height; ++i) {
        inputs.push_back({ -1, std::vector<float>(n_embd), { pos, pos + i / width, pos + i % width } });
        for (float & x : inputs.back().embd) {
            x = normal(rng);
        }
    }
    pos += std::max(width, height);
}

// Two images between texts.
inline std::vector<input> two_images(const llama_model * model, std::mt19937_64 & rng) {
    const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model)), n_embd = llama_model_n_embd_inp(model);
    std::vector<input> inputs;
    llama_pos pos = 0;
    add_text (inputs, 20 + int(rng() % 40), n_vocab, pos, rng);
    add_image(inputs, 3 + int(rng() % 12), 3 + int(rng() % 12), n_embd, pos, rng);
    add_text (inputs, 1 + int(rng() % 60), n_vocab, pos, rng);
    add_image(inputs, 3 + int(rng() % 12), 3 + int(rng() % 12), n_embd, pos, rng);
    add_text (inputs, 20 + int(rng() % 40), n_vocab, pos, rng);
    return inputs;
}

// A batch of inputs of one kind, of sequence seq, or of sequence seqs[i].
class input_batch {
public:
    input_batch(const input * inputs, int n, llama_seq_id seq, const std::vector<llama_seq_id> & seqs = {}) :
        pos(inputs[0].token < 0 ? 4 * n : n), n_seq_id(n, 1), seq_id(n, seq), logits(n, true) {
        for (int i = 0; i < n; ++i) {
            if (!seqs.empty()) {
                seq_id[i] = seqs[i];
            }
            seq_ids.push_back(&seq_id[i]);
            const duo_positions::token & at = inputs[i].at;
            pos[i] = at.pos;
            if (inputs[0].token < 0) {
                embd.insert(embd.end(), inputs[i].embd.begin(), inputs[i].embd.end());
                pos[n + i]     = at.y;
                pos[2 * n + i] = at.x;
            } else {
                tokens.push_back(inputs[i].token);
            }
        }
    }

    llama_batch get() {
        return { int32_t(n_seq_id.size()), tokens.empty() ? nullptr : tokens.data(), embd.empty() ? nullptr : embd.data(), pos.data(), n_seq_id.data(),
            seq_ids.data(), logits.data() };
    }

private:
    std::vector<llama_token>    tokens;
    std::vector<float>          embd;
    std::vector<llama_pos>      pos;
    std::vector<int32_t>        n_seq_id;
    std::vector<llama_seq_id>   seq_id;
    std::vector<llama_seq_id *> seq_ids;
    std::vector<int8_t>         logits;
};

// Decodes inputs [begin, end) in pieces of one kind; appends the logits of each where all is set, else of the last.
inline int decode(llama_context * ctx, const std::vector<input> & inputs, size_t begin, size_t end, int piece, bool all, std::vector<float> & logits,
        llama_seq_id seq = 0) {
    const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)));
    for (size_t i = begin; i < end;) {
        int n = 1;
        while (n < piece && i + n < end && (inputs[i + n].token < 0) == (inputs[i].token < 0)) {
            ++n;
        }
        input_batch batch(&inputs[i], n, seq);
        if (const int status = llama_decode(ctx, batch.get()); status != 0) {
            return status;
        }
        i += n;
        for (int j = all ? 0 : i == end ? n - 1 : n; j < n; ++j) {
            const float * x = llama_get_logits_ith(ctx, j);
            logits.insert(logits.end(), x, x + n_vocab);
        }
    }
    return 0;
}
