// Speculative decoding for a model with mixed heads: with drafts of which some are right and some wrong, the tokens are those without.
//
// What proposes, verifies and takes back is done with llama.cpp's common_speculative, as its server does.
#include "check.h"
#include "contexts.h"
#include "decode.h"
#include "draft-model.h"

#include "common.h"
#include "llama-arch.h"
#include "llama-model.h"
#include "llama.h"
#include "speculative.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace {

constexpr int n_ctx    = 1024; // of a sequence
constexpr int n_prompt = 200;
constexpr int n_answer = 300;

const auto part = LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY;

llama_context_params one_thread(llama_context_params p, int n_seq) {
    p.n_threads = p.n_threads_batch = 1; // models this small are done sooner by one thread than by two that wait for each other
    p.n_ctx     = n_ctx * n_seq;
    p.n_seq_max = n_seq;
    p.n_batch   = 512;
    p.n_ubatch  = 64;
    return p;
}

// The most likely token, and how far the next likely is from it.
struct choice {
    llama_token token;
    float       margin;
};

choice best(llama_context * ctx, int i) {
    const float * x = llama_get_logits_ith(ctx, i);
    const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)));
    int   most = 0;
    float next = -INFINITY;
    for (int t = 1; t < n_vocab; ++t) {
        next = std::max(next, std::min(x[t], x[most]));
        most = x[t] > x[most] ? t : most;
    }
    return { most, x[most] - next };
}

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct outcome {
    std::vector<std::vector<choice>> answers; // [sequences]

    int    n_drafted = 0, n_accepted = 0;
    int    n_restored = 0; // states that were put back because a draft could not be taken back
    double seconds = 0;    // of answering, without the prompts
};

// A batch of at most n tokens, in which each token's logits are asked for.
struct batch_of {
    explicit batch_of(int n) : batch(llama_batch_init(n, 0, 1)) {}
    ~batch_of() { llama_batch_free(batch); }

    int add(llama_token token, int pos, llama_seq_id seq, bool logits = true) {
        common_batch_add(batch, token, pos, { seq }, logits);
        return batch.n_tokens - 1;
    }

    llama_batch batch;
};

// Greedy answers to prompts side by side. params: null, no drafts.
outcome answer(llama_context * ctx, common_params_speculative * params, const std::vector<llama_tokens> & prompts) {
    const int n_seq = int(prompts.size());
    llama_context * dft = params ? params->draft.ctx_dft : nullptr;
    common_memory memory;
    memory.init(ctx, dft);

    common_speculative_ptr spec(params ? common_speculative_init(*params, n_seq) : nullptr);
    CHECK_EQ(spec != nullptr, params != nullptr);
    const auto can_rm = [](llama_context * c) { return c ? common_context_can_seq_rm(c) : COMMON_CONTEXT_SEQ_RM_TYPE_PART; };
    const auto rm = can_rm(ctx), rm_dft = can_rm(dft);
    const auto needs_state = [&](size_t n_back) {
        return rm == COMMON_CONTEXT_SEQ_RM_TYPE_FULL || (rm == COMMON_CONTEXT_SEQ_RM_TYPE_RS && n_back > llama_n_rs_seq(ctx));
    };
    const auto decode = [&](const llama_batch & batch) {
        CHECK_EQ(llama_decode(ctx, batch), 0);
        CHECK(common_speculative_process(spec.get(), batch));
    };

    struct sequence {
        llama_tokens held, draft; // held: the draft and the last token excepted
        llama_token  last;
        int          i_batch;
        common_prompt_checkpoint state;
    };
    std::vector<sequence> seqs(n_seq);
    outcome out;
    out.answers.resize(n_seq);

    for (int s = 0; s < n_seq; ++s) {
        for (int i = 0, n; i < n_prompt; i += n) {
            n = std::min(50, n_prompt - i);
            batch_of piece(n);
            for (int j = i; j < i + n; ++j) {
                piece.add(prompts[s][j], j, s, j == i + n - 1);
            }
            decode(piece.batch);
            out.answers[s] = { best(ctx, n - 1) };
        }
        seqs[s].held = prompts[s];
        seqs[s].last = out.answers[s][0].token;
        common_speculative_begin(spec.get(), s, seqs[s].held);
    }

    const double start = seconds();
    batch_of batch(512);
    while (true) {
        std::vector<int> going, drafting;
        for (int s = 0; s < n_seq; ++s) {
            sequence & q = seqs[s];
            const int n_left = n_answer - int(out.answers[s].size());
            if (n_left <= 0) {
                continue;
            }
            going.push_back(s);
            if (spec && q.draft.empty() && n_left > 1) {
                q.state.update_pos(q.held.size(), llama_memory_seq_pos_min(llama_get_memory(ctx), s), llama_memory_seq_pos_max(llama_get_memory(ctx), s));
                CHECK_EQ(q.state.pos_max, int(q.held.size()) - 1);
                if (rm_dft == COMMON_CONTEXT_SEQ_RM_TYPE_FULL) {
                    q.state.update_dft(dft, s, part);
                }
                common_speculative_get_draft_params(spec.get(), s) = { true, n_left - 1, llama_pos(q.held.size()), q.last, &q.held, &q.draft };
                drafting.push_back(s);
            }
        }
        if (going.empty()) {
            break;
        }
        if (!drafting.empty()) {
            common_speculative_draft(spec.get());
        }
        for (const int s : drafting) {
            sequence & q = seqs[s];
            out.n_drafted += int(q.draft.size());
            if (rm_dft == COMMON_CONTEXT_SEQ_RM_TYPE_FULL) {
                q.state.load_dft(dft, s, part);
            }
            CHECK(!dft || llama_memory_seq_rm(llama_get_memory(dft), s, q.state.pos_max + 1, -1));
            if (!q.draft.empty() && needs_state(q.draft.size())) {
                q.state.update_tgt(ctx, s, part);
            }
        }

        common_batch_clear(batch.batch);
        for (const int s : going) {
            sequence & q = seqs[s];
            q.i_batch = batch.add(q.last, int(q.held.size()), s);
            for (size_t i = 0; i < q.draft.size(); ++i) {
                batch.add(q.draft[i], int(q.held.size() + 1 + i), s);
            }
        }
        decode(batch.batch);

        for (const int s : going) {
            sequence & q = seqs[s];
            std::vector<choice> chosen = { best(ctx, q.i_batch) };
            llama_tokens ids = { chosen[0].token };
            while (ids.size() <= q.draft.size() && ids.back() == q.draft[ids.size() - 1]) {
                chosen.push_back(best(ctx, q.i_batch + int(ids.size())));
                ids.push_back(chosen.back().token);
            }
            const size_t n_back = q.draft.size() + 1 - ids.size();
            if (n_back > 0 && needs_state(n_back)) { // what is right is decoded again
                q.state.load_tgt(ctx, s, part);
                q.state.load_dft(dft, s, part);
                memory.seq_rm(s, q.state.pos_max + 1, -1);
                q.draft = ids;
                out.n_accepted--; // the last of them was not drafted, and will be taken for such
                out.n_restored++;
                continue;
            }
            if (spec) {
                common_speculative_accept(spec.get(), s, uint16_t(ids.size() - 1));
            }
            out.n_accepted += int(ids.size()) - 1;
            q.held.push_back(q.last);
            q.held.insert(q.held.end(), ids.begin(), ids.end() - 1);
            q.last = ids.back();
            q.draft.clear();
            out.answers[s].insert(out.answers[s].end(), chosen.begin(), chosen.end());
            memory.seq_rm(s, llama_pos(q.held.size()), -1); // throws where it is refused
        }
    }
    out.seconds = seconds() - start;
    for (auto & a : out.answers) {
        a.resize(n_answer); // a draft that is all right is one token ahead
    }
    return out;
}

struct way {
    const char * name;
    common_speculative_type type;
    int n_max; // of a draft's tokens
};

void test_drafts(const std::string & arch, bool predicts, bool windows, const std::vector<way> & ways) {
    const random_model_params p = draft_model_params(arch, predicts, windows, fresh_seed());
    llama_model_params how = llama_model_default_params();
    how.load_mtp = predicts;
    const auto model = make_random_model(p, &how);
    const auto draft = make_random_model(noisy_model_params(p));
    const auto gates = random_gates(model.get(), fresh_seed());

    const int n_seq = 2;
    std::vector<llama_tokens> prompts;
    for (int s = 0; s < n_seq; ++s) {
        prompts.push_back(random_tokens(n_prompt, int(p.n_vocab), fresh_seed()));
    }
    for (const float sparsity : { 0.0f, 0.5f }) {
        llama_context_params params = one_thread(duo_params(GGML_TYPE_F32, 0, sparsity, gates.c_str()), n_seq);
        params.duo.sink   = 16;
        params.duo.recent = 48;
        const auto alone = make_context(model.get(), params);
        CHECK(alone != nullptr);
        const auto plain = answer(alone.get(), nullptr, prompts);
        std::set<llama_token> apart;
        for (const choice & c : plain.answers[0]) {
            apart.insert(c.token);
        }
        printf("%s%s, sparsity %.1f: %.0f tokens/s without drafts, %d different tokens in %d\n", arch.c_str(), windows ? " with windows" : "", sparsity,
                n_seq * n_answer / plain.seconds, int(apart.size()), n_answer);

        for (const way & w : ways) {
            const bool is_mtp = w.type == COMMON_SPECULATIVE_TYPE_DRAFT_MTP;
            common_params_speculative spec;
            spec.types       = { w.type };
            spec.draft.n_max = w.n_max;
            spec.ngram_simple.size_n = 2;
            spec.ngram_simple.size_m = uint16_t(w.n_max);

            llama_context_params drafting = params;
            drafting.n_rs_seq = spec.need_n_rs_seq();
            const auto ctx = make_context(model.get(), drafting);
            context_ptr dft;
            if (w.type == COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE || is_mtp) {
                llama_context_params own = one_thread(stock_params(GGML_TYPE_F32, 0), n_seq);
                own.ctx_type  = is_mtp ? LLAMA_CONTEXT_TYPE_MTP : LLAMA_CONTEXT_TYPE_DEFAULT;
                own.ctx_other = ctx.get();
                dft = make_context(is_mtp ? model.get() : draft.get(), own);
                CHECK(dft != nullptr);
            }
            CHECK(ctx != nullptr);
            spec.draft.ctx_tgt = ctx.get();
            spec.draft.ctx_dft = dft.get();
            const auto found = answer(ctx.get(), &spec, prompts);
            int n_same = 0;
            for (int s = 0; s < n_seq; ++s) {
                const auto & want = plain.answers[s];
                const auto differs = std::mismatch(want.begin(), want.end(), found.answers[s].begin(), [](choice a, choice b) { return a.token == b.token; }).first;
                // two tokens that are as likely are a matter of rounding, and what follows is another text
                check::report(differs == want.end() || differs->margin < 1e-4f, __FILE__, __LINE__, arch + ", " + w.name + ": the tokens are those without drafts",
                        "not token " + std::to_string(differs - want.begin()) + " of sequence " + std::to_string(s));
                n_same += int(differs - want.begin());
            }
            CHECK(found.n_accepted < found.n_drafted || w.type == COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE); // one that repeats itself from end to end is looked up right
            CHECK(found.n_accepted > 0 || w.type == COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE); // a text need not repeat itself
            printf("    %-12s up to %2d: %d of %d drafted tokens accepted (%.0f%%), %d states put back, %.0f tokens/s; %d of %d tokens the same\n", w.name, w.n_max,
                    found.n_accepted, found.n_drafted, 100.0 * found.n_accepted / found.n_drafted, found.n_restored, n_seq * n_answer / found.seconds, n_same, n_seq * n_answer);
        }
    }
}

std::string errors; // what llama.cpp logged

// What would end the process, or read another cache than it takes it for.
void test_refused() {
    const auto refused = [](llama_model * model, const llama_context_params & params, const char * reason) {
        errors.clear();
        CHECK(make_context(model, params) == nullptr);
        check::report(errors.find(reason) != std::string::npos, __FILE__, __LINE__, reason, "found " + errors);
    };
    const auto model  = make_random_model(draft_model_params("qwen35", true, false, fresh_seed()));
    auto       params = one_thread(duo_params(GGML_TYPE_F32, 0, 0.0f), 1);
    params.n_rs_seq = 63;
    refused(model.get(), params, "drafts of 63 tokens (--spec-draft-n-max) are to be taken back from recurrent states");
    params.n_rs_seq = 62;
    const auto ctx = make_context(model.get(), params);
    CHECK(ctx != nullptr);

    // its layers have no rows of their own
    const auto shares = make_random_model(draft_model_params("llama", false, false, fresh_seed()));
    shares->arch = LLM_ARCH_GEMMA4_ASSISTANT;
    params = one_thread(stock_params(GGML_TYPE_F32, 0), 1);
    params.ctx_other = ctx.get();
    refused(shares.get(), params, "this draft model reads the KV cache of the model that it drafts for");
}

} // namespace

int main() {
    llama_log_set([](ggml_log_level level, const char * text, void *) { if (level == GGML_LOG_LEVEL_ERROR) { errors += text; } }, nullptr);
    llama_backend_init();
    test_refused();
    const way simple = { "draft-simple", COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE, 8 };
    const way longer = { "draft-simple", COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE, 80 }; // than may be taken back
    const way mtp    = { "draft-mtp",    COMMON_SPECULATIVE_TYPE_DRAFT_MTP,    3 };
    const way lookup = { "ngram-simple", COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE, 24 };
    const way round  = { "ngram-simple", COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE, 180 }; // rings go round
    test_drafts("llama",     false, false, { simple, longer, lookup, round });
    test_drafts("olmo2",     false, true,  { simple, longer, lookup });
    test_drafts("lfm2",      false, false, { simple, lookup, round });
    test_drafts("qwen35",    true,  false, { simple, mtp, lookup });
    test_drafts("qwen35moe", true,  false, { mtp });
    test_drafts("qwen3next", true,  false, { simple, mtp, lookup, round });
    return check::result();
}
