// Passes of a model over the samples of a calibration: contexts once, questions and answers again and again with other heads windowed.
#pragma once

#include "calibration.h"

#include "ggml.h"
#include "llama-cpp.h"

#include <cstdint>
#include <functional>
#include <vector>

namespace duo {

using head_mask = std::vector<std::vector<uint8_t>>; // [n_layer][n_head_kv], 1: sees sinks and recent keys only

class calibration_passes {
public:
    // Every sample has a sequence of its own in one context. Throws calibration_error where there can be none.
    calibration_passes(llama_model * model, const calibration_params & params);
    ~calibration_passes();
    calibration_passes(const calibration_passes &) = delete;

    // What the model foretells at the answers' tokens, all samples one after the other.
    struct outputs {
        std::vector<float>   hidden;  // [n_answer][n_embd], the final normalised hidden state that a token is told from
        std::vector<float>   logp;    // [n_answer], log-probability of the token, in nats
        std::vector<uint8_t> correct; // [n_answer], 1: no other is likelier
    };

    // Reads all contexts afresh.
    void read_contexts(const head_mask & windowed);

    // Reads questions and answers behind the contexts, and takes them back.
    outputs read_tails(const head_mask & windowed);

    // Reads each context once more behind itself, and takes it back.
    void repeat_contexts(const head_mask & windowed);

    // Sees each layer's operator (GGML_OP_MIXED_ATTN), computed, while one of the above runs; null: none does. rope: the layer's last GGML_OP_ROPE
    // before it, of which only the parameters hold, or null.
    std::function<void(const ggml_tensor * op, const ggml_tensor * rope)> on_attention;

    // Told of tokens as they are computed; null: nobody is.
    std::function<void(size_t n_tokens)> on_tokens;

    std::vector<int32_t> n_head_kv() const;

private:
    struct token {
        llama_token  id;
        llama_pos    pos;
        llama_seq_id seq;
        llama_token  next; // the answer's token that it foretells, LLAMA_TOKEN_NULL: none is asked for
    };

    // Decodes in pieces of a ubatch. out: gets what is foretold.
    void decode(const std::vector<token> & tokens, outputs * out);

    void take_back_tails();

    bool on_node(ggml_tensor * t, bool ask);

    llama_model *              model;
    const calibration_params & params;
    llama_context_ptr          ctx;

    const ggml_tensor * rope = nullptr; // the last one seen since an operator
    std::vector<float>  hidden;         // rows of the piece being decoded
    bool                has_norm = false; // its graph names the final norm
};

} // namespace duo
