// Passes of a model over the samples of a calibration: contexts once, questions and answers again and again with other heads windowed.
#pragma once

#include "calibration.h"
#include "duo-row-types.h"

#include "ggml.h"
#include "llama-cpp.h"

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <utility>
#include <vector>

namespace duo {

using head_windows = std::vector<std::vector<int32_t>>; // [n_layer][n_head_kv]: recent keys that a head sees beside the sinks; GGML_MIXED_ATTN_ALL: every key

class calibration_passes {
public:
    // Every sample has a sequence of its own in one context, whose cache has rows of these types. Throws calibration_error where there can be none.
    calibration_passes(llama_model * model, const calibration_params & params, const duo_row_types & types = {});
    ~calibration_passes();
    calibration_passes(const calibration_passes &) = delete;

    // What the model foretells at the answers' tokens, all samples one after the other.
    struct outputs {
        std::vector<float>   hidden;  // [n_answer][n_embd], the final normalised hidden state that a token is told from
        std::vector<float>   logp;    // [n_answer], log-probability of the token, in nats
        std::vector<uint8_t> correct; // [n_answer], 1: no other is likelier
    };

    // Reads all contexts afresh.
    void read_contexts(const head_windows & windows);

    // Reads questions and answers behind the contexts, and takes them back.
    outputs read_tails(const head_windows & windows);

    // Reads each context once more behind itself, and takes it back.
    void repeat_contexts(const head_windows & windows);

    // What is read into, for who looks at rows.
    llama_context * context() const { return ctx.get(); }

    // Sees each layer's operator (GGML_OP_MIXED_ATTN), computed, while one of the above runs; null: none does. rope: the layer's last GGML_OP_ROPE
    // before it, of which only the parameters hold, or null.
    std::function<void(const ggml_tensor * op, const ggml_tensor * rope)> on_attention;

    // Told of tokens as they are computed; null: nobody is.
    std::function<void(size_t n_tokens)> on_tokens;

private:
    struct token {
        llama_token  id;
        llama_pos    pos;
        llama_seq_id seq;
        llama_token  next; // the answer's token that it foretells, LLAMA_TOKEN_NULL: none is asked for
    };

    // Decodes in pieces of a ubatch. out: gets what is foretold.
    void decode(const std::vector<token> & tokens, outputs * out);

    // Log-probabilities of tokens by the logits [n_vocab] that foretell them.
    void look_up(const std::vector<std::pair<const float *, llama_token>> & foretold, size_t n_vocab, outputs & out) const;

    void save_contexts();

    void take_back_tails();

    bool on_node(ggml_tensor * t, bool ask);

    // Rows of the final hidden states of a ubatch.
    void take_hidden(const ggml_tensor * rows);

    using place = std::pair<llama_seq_id, llama_pos>;

    llama_model *              model;
    const calibration_params & params;
    llama_context_ptr          ctx;

    const ggml_tensor * rope = nullptr; // the last one seen since an operator
    bool                has_norm = false; // the graph names the final norm

    std::vector<place>                  order;  // of the ubatch's tokens; empty until its first attention
    std::set<place>                     asked;  // of the piece being decoded, what its outputs are asked for
    std::map<place, std::vector<float>> hidden; // of those

    std::vector<std::vector<uint8_t>> states; // [sample] after its context, of a model whose recurrent layers cannot go back to it
};

} // namespace duo
