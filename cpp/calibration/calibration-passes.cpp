#include "calibration-passes.h"

#include "calibration-graphs.h"
#include "duo-heads.h"
#include "log-softmax.h"
#include "mixed-attention.h"

#include "ggml-backend.h"
#include "llama-arch.h"
#include "llama-model.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <system_error>
#include <thread>

namespace duo {

static constexpr size_t n_ubatch = 512; // as a context's default: a pass of one piece for most samples

calibration_passes::calibration_passes(llama_model * model, const calibration_params & params, const duo_row_types & types) : model(model), params(params) {
    size_t longest = 0, longest_tail = 0;
    for (const auto & s : params.samples) {
        const size_t n = params.method == calibration_method::kvzip ? std::max(s.tokens.size(), 2 * s.n_context) : s.tokens.size();
        longest      = std::max(longest, n);
        longest_tail = std::max(longest_tail, n - s.n_context);
    }
    const size_t n_ctx_seq = GGML_PAD(longest, 256); // llama.cpp's own padding

    llama_context_params p = llama_context_default_params();
    p.n_seq_max       = uint32_t(params.samples.size());
    p.n_ctx           = uint32_t(n_ctx_seq * params.samples.size());
    p.n_batch         = n_ubatch;
    p.n_ubatch        = n_ubatch;
    p.n_threads       = params.n_threads;
    p.n_threads_batch = params.n_threads;
    p.offload_kqv     = params.offload;
    p.type_k          = types.type_k;
    p.type_v          = types.type_v;
    p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED; // stock code wants it beside a quantised V; the operator takes its place
    p.duo             = llama_duo_default_params();
    p.duo.enabled     = true;
    p.duo.sparsity    = 0; // all rows are kept, so heads can be windowed and tails taken back
    p.duo.sink        = params.sink;
    p.duo.recent      = params.recent;
    p.duo.finer_k        = types.finer_k;
    p.duo.finer_layers   = types.finer_layers.data();
    p.duo.n_finer_layers = types.finer_layers.size();
    p.duo.operator_only = true; // on_node looks at it, and heads are windowed
    p.n_rs_seq        = llm_arch_is_hybrid(model->arch) ? 0 : uint32_t(longest_tail); // what sliding windows of the model's own let one take back
    p.cb_eval         = [](ggml_tensor * t, bool ask, void * self) { return static_cast<calibration_passes *>(self)->on_node(t, ask); };
    p.cb_eval_user_data = this;
    p.abort_callback  = [](void * self) {
        const auto & cancelled = static_cast<calibration_passes *>(self)->params.cancelled;
        return cancelled && cancelled();
    };
    p.abort_callback_data = this;

    ctx.reset(llama_init_from_model(model, p));
    if (!ctx) {
        throw calibration_error(calibration_error::context, "there is no context of " + std::to_string(params.samples.size()) + " x " +
                std::to_string(n_ctx_seq) + " tokens for this model; use fewer or shorter samples");
    }
}

calibration_passes::~calibration_passes() = default;

bool calibration_passes::on_node(ggml_tensor * t, bool ask) {
    const bool is_norm = strcmp(t->name, "result_norm") == 0;
    // one architecture gives its final norm no name (plamo3); what the output is computed from is the same
    const bool is_output = !has_norm && t->op == GGML_OP_MUL_MAT && t->src[0] == model->output;
    if (ask) {
        if (t->op == GGML_OP_ROPE) {
            rope = t;
        }
        has_norm = has_norm || is_norm;
        return is_norm || is_output || (t->op == GGML_OP_MIXED_ATTN && (on_attention || order.empty()));
    }
    if (is_norm || is_output) {
        take_hidden(is_norm ? t : t->src[1]);
    } else {
        if (order.empty()) {
            const std::vector<int32_t> tokens = download<int32_t>(ggml_mixed_attn_get_sources(t).tokens);
            for (size_t i = 0; i < tokens.size(); i += 2) {
                order.push_back({ tokens[i + 1], tokens[i] });
            }
        }
        if (on_attention) {
            on_attention(t, rope);
        }
        rope = nullptr;
    }
    return !(params.cancelled && params.cancelled());
}

// A piece of several sequences may be more than one ubatch, in whose order its rows come.
void calibration_passes::take_hidden(const ggml_tensor * rows) {
    const size_t n_embd = size_t(rows->ne[0]), n_rows = size_t(ggml_nrows(rows));
    const bool all_rows = n_rows == order.size(); // models that compute the last layer for all tokens have a row for each
    const std::vector<float> data = download<float>(rows);
    size_t row = 0;
    for (const place & p : order) {
        if (asked.count(p) > 0 && row < n_rows) {
            hidden[p].assign(data.begin() + row * n_embd, data.begin() + (row + 1) * n_embd);
        }
        row += all_rows || asked.count(p) > 0;
    }
    order.clear();
}

void calibration_passes::decode(const std::vector<token> & tokens, outputs * out) {
    const size_t n_vocab = size_t(llama_vocab_n_tokens(llama_model_get_vocab(model)));
    const size_t n_embd  = size_t(llama_model_n_embd(model));

    for (size_t begin = 0; begin < tokens.size(); begin += n_ubatch) {
        const size_t n = std::min(n_ubatch, tokens.size() - begin);
        order.clear();
        asked.clear();
        hidden.clear();
        has_norm = false;
        std::vector<llama_token>    id(n);
        std::vector<llama_pos>      pos(n);
        std::vector<llama_seq_id>   seq(n);
        std::vector<int32_t>        n_seq_id(n, 1);
        std::vector<llama_seq_id *> seq_id(n);
        std::vector<int8_t>         output(n);
        std::vector<size_t>         wanted;
        for (size_t i = 0; i < n; ++i) {
            const token & t = tokens[begin + i];
            id[i]     = t.id;
            pos[i]    = t.pos;
            seq[i]    = t.seq;
            seq_id[i] = &seq[i];
            output[i] = out && t.next != LLAMA_TOKEN_NULL;
            if (output[i]) {
                wanted.push_back(i);
                asked.insert({ t.seq, t.pos });
            }
        }
        if (wanted.empty()) {
            output.back() = 1; // there are architectures whose graph must give something (chameleon)
        }
        const int32_t status = llama_decode(ctx.get(),
                { int32_t(n), id.data(), nullptr, pos.data(), n_seq_id.data(), seq_id.data(), output.data() });
        if (params.cancelled && params.cancelled()) {
            throw calibration_cancelled();
        }
        if (status != 0) {
            throw calibration_error(calibration_error::decode, "llama_decode failed with status " + std::to_string(status));
        }
        llama_synchronize(ctx.get());
        if (on_tokens) {
            on_tokens(n);
        }

        if (hidden.size() != asked.size()) {
            throw calibration_error(calibration_error::decode, "the model's final hidden states were seen for " + std::to_string(hidden.size()) + " tokens; expected " +
                    std::to_string(asked.size()));
        }
        std::vector<std::pair<const float *, llama_token>> foretold;
        for (const size_t i : wanted) {
            const auto & row = hidden[{ seq[i], pos[i] }];
            if (row.size() != n_embd) {
                throw calibration_error(calibration_error::decode, "the model's final hidden states have " + std::to_string(row.size()) + " numbers; expected " +
                        std::to_string(n_embd));
            }
            out->hidden.insert(out->hidden.end(), row.begin(), row.end());
            foretold.push_back({ llama_get_logits_ith(ctx.get(), int32_t(i)), tokens[begin + i].next });
        }
        if (out) {
            look_up(foretold, n_vocab, *out);
        }
    }
}

// A vocabulary's exponentials take as long as a pass of a small model on a GPU, so the rows are shared out among threads.
void calibration_passes::look_up(const std::vector<std::pair<const float *, llama_token>> & foretold, size_t n_vocab, outputs & out) const {
    const size_t first = out.logp.size(), n_threads = std::min(foretold.size(), size_t(std::max(1, params.n_threads)));
    out.logp.resize(first + foretold.size());
    out.correct.resize(first + foretold.size());
    const auto every_nth = [&](size_t begin) {
        for (size_t i = begin; i < foretold.size(); i += n_threads) {
            const auto [logits, next] = foretold[i];
            out.logp[first + i]    = float(log_softmax(logits, n_vocab, next));
            out.correct[first + i] = logits[next] == *std::max_element(logits, logits + n_vocab); // none is likelier
        }
    };
    std::vector<std::thread> threads;
    size_t n_begun = 1;
    try {
        for (; n_begun < n_threads; ++n_begun) {
            threads.emplace_back(every_nth, n_begun);
        }
    } catch (const std::system_error &) {
        // there are no more threads to be had: this one does the rest
    }
    every_nth(0);
    for (size_t t = n_begun; t < n_threads; ++t) {
        every_nth(t);
    }
    for (std::thread & t : threads) {
        t.join();
    }
}

void calibration_passes::read_contexts(const head_windows & windows) {
    duo_set_windows(ctx.get(), windows);
    llama_memory_clear(llama_get_memory(ctx.get()), false);

    std::vector<token> tokens;
    for (size_t i = 0; i < params.samples.size(); ++i) {
        const auto & s = params.samples[i];
        for (size_t p = 0; p < s.n_context; ++p) {
            tokens.push_back({ s.tokens[p], llama_pos(p), llama_seq_id(i), LLAMA_TOKEN_NULL });
        }
    }
    decode(tokens, nullptr);
    save_contexts();
}

calibration_passes::outputs calibration_passes::read_tails(const head_windows & windows) {
    duo_set_windows(ctx.get(), windows);

    std::vector<token> tokens;
    for (size_t i = 0; i < params.samples.size(); ++i) {
        const auto & s = params.samples[i];
        auto answer = s.answers.begin();
        for (size_t p = s.n_context; p + 1 < s.tokens.size(); ++p) { // nothing follows the last one
            while (answer != s.answers.end() && p + 1 >= answer->second) {
                ++answer;
            }
            const bool asked = answer != s.answers.end() && p + 1 >= answer->first;
            tokens.push_back({ s.tokens[p], llama_pos(p), llama_seq_id(i), asked ? s.tokens[p + 1] : LLAMA_TOKEN_NULL });
        }
    }
    outputs out;
    decode(tokens, &out);
    take_back_tails();
    return out;
}

void calibration_passes::repeat_contexts(const head_windows & windows) {
    duo_set_windows(ctx.get(), windows);

    std::vector<token> tokens;
    for (size_t i = 0; i < params.samples.size(); ++i) {
        const auto & s = params.samples[i];
        for (size_t p = 0; p < s.n_context; ++p) {
            tokens.push_back({ s.tokens[p], llama_pos(s.n_context + p), llama_seq_id(i), LLAMA_TOKEN_NULL });
        }
    }
    decode(tokens, nullptr);
    take_back_tails();
}

void calibration_passes::save_contexts() {
    states.clear();
    for (size_t i = 0; llm_arch_is_hybrid(model->arch) && i < params.samples.size(); ++i) {
        states.emplace_back(llama_state_seq_get_size_ext(ctx.get(), llama_seq_id(i), LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY));
        const size_t n = llama_state_seq_get_data_ext(ctx.get(), states[i].data(), states[i].size(), llama_seq_id(i), LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
        if (n != states[i].size()) {
            throw calibration_error(calibration_error::decode, "the state of the model's recurrent layers cannot be saved");
        }
    }
}

void calibration_passes::take_back_tails() {
    for (size_t i = 0; i < params.samples.size(); ++i) {
        // exact: all rows are kept, but those of the model's own windows, of which a tail can be taken back
        const bool taken = states.empty() ? llama_memory_seq_rm(llama_get_memory(ctx.get()), llama_seq_id(i), llama_pos(params.samples[i].n_context), -1) :
                llama_state_seq_set_data_ext(ctx.get(), states[i].data(), states[i].size(), llama_seq_id(i), LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY) == states[i].size();
        if (!taken) {
            throw calibration_error(calibration_error::decode, "what was read behind a context cannot be taken back");
        }
    }
}

} // namespace duo
