#include "drafter.h"

#include "context.h"
#include "handle-table.h"
#include "token-batch.h"

#include "llama-arch.h"
#include "llama-model.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace duo::abi {

// --- options ---

draft_options draft_options::read(options o) {
    const common_params_speculative otherwise; // llama.cpp's defaults
    draft_options result;
    if (const json * handle = o.value("draft")) {
        result.draft = handle->is_number_unsigned() && *handle <= UINT32_MAX ? handles().get<model>(handle->get<uint32_t>()) : nullptr;
        if (!result.draft) {
            throw o.error("draft", "a model's handle");
        }
    }
    result.lookup = o.boolean("lookup").value_or(false);
    if (!result.draft && !result.lookup) {
        throw o.error("draft", "a model's handle, or \"lookup\": true");
    }
    const auto n_max = o.integer("maxTokens", 1, 1024);
    result.n_max        = size_t(n_max.value_or(otherwise.draft.n_max));
    result.n_max_lookup = size_t(n_max.value_or(otherwise.ngram_simple.size_m));
    result.n_gram       = size_t(o.integer("ngramSize", 1, 1024).value_or(otherwise.ngram_simple.size_n));
    result.p_min        = float(o.number("minProbability", 0, 1).value_or(otherwise.draft.p_min));
    result.type_k       = cache_type(o, "typeK", otherwise.draft.cache_type_k);
    result.type_v       = cache_type(o, "typeV", otherwise.draft.cache_type_v);
    result.n_threads       = int32_t(o.integer("threads",      1, GGML_MAX_N_THREADS).value_or(0));
    result.n_threads_batch = int32_t(o.integer("threadsBatch", 1, GGML_MAX_N_THREADS).value_or(result.n_threads));
    o.finish();

    // what is not used asks for no room
    result.n_max        = result.draft  ? result.n_max        : 0;
    result.n_max_lookup = result.lookup ? result.n_max_lookup : 0;
    return result;
}

static bool has_states(const model & m) {
    return llama_model_is_recurrent(m.ptr.get()) || llama_model_is_hybrid(m.ptr.get());
}

// In what the vocabularies differ, or "". This is llama.cpp's own rule, common_speculative_are_compatible, which tells only its log.
static std::string difference(const model & m, const model & draft) {
    constexpr int32_t most_more_tokens = 128; // SPEC_VOCAB_MAX_SIZE_DIFFERENCE
    constexpr int32_t first_compared   = 5;   // SPEC_VOCAB_CHECK_START_TOKEN_ID

    const llama_vocab * a = m.vocab;
    const llama_vocab * b = draft.vocab;
    const auto differs = [](const std::string & what, const std::string & there, const std::string & here) {
        return what + " is " + there + " there and " + here + " here";
    };
    if (!m.has_vocab() || !draft.has_vocab()) {
        return m.has_vocab() ? "it has none" : draft.has_vocab() ? "this model has none" : "neither model has one to compare";
    }
    if (llama_vocab_type(a) != llama_vocab_type(b)) {
        return differs("its type", std::to_string(llama_vocab_type(b)), std::to_string(llama_vocab_type(a)));
    }
    const auto added = [](bool add, llama_token token) { return add ? "token " + std::to_string(token) : std::string("none"); };
    const auto first = [&](const llama_vocab * v) { return added(llama_vocab_get_add_bos(v), llama_vocab_bos(v)); };
    const auto last  = [&](const llama_vocab * v) { return added(llama_vocab_get_add_eos(v), llama_vocab_eos(v)); };
    if (first(a) != first(b)) {
        return differs("what begins a text", first(b), first(a));
    }
    if (last(a) != last(b)) {
        return differs("what ends a text", last(b), last(a));
    }
    const int32_t n_a = llama_vocab_n_tokens(a), n_b = llama_vocab_n_tokens(b);
    if (std::abs(n_a - n_b) > most_more_tokens) {
        return differs("the number of tokens", std::to_string(n_b), std::to_string(n_a));
    }
    for (int32_t i = first_compared; i < std::min(n_a, n_b); i++) {
        const std::string there = llama_vocab_get_text(b, i), here = llama_vocab_get_text(a, i);
        if (there != here) {
            return differs("token " + std::to_string(i), dump(there), dump(here));
        }
    }
    return "";
}

// Where states are kept of the last tokens of a ubatch, a draft, the token before it and one more have to be in it.
static size_t most_in_ubatch(const llama_context_params & p) {
    const uint32_t n = std::min({ p.n_ubatch, p.n_batch, 256u }); // a context has 256 tokens at least, and a batch no more than it
    return n > 2 ? n - 2 : 0;
}

std::string draft_options::unsupported(const model & m, const llama_context_params & p) const {
    if (has_states(m) && !llm_arch_supports_rs_rollback(m.ptr->arch)) {
        return "llama.cpp keeps no earlier states of the recurrent layers of " + m.ptr->arch_name() + " models, so that a draft that is wrong could not be taken back";
    }
    if (llm_arch_supports_rs_rollback(m.ptr->arch) && most_in_ubatch(p) == 0) {
        return "drafts that are wrong are to be taken back from recurrent states, which are kept of the last tokens of a ubatch; ubatchSize is " + std::to_string(p.n_ubatch) +
            ", and 3 is the least for that";
    }
    if (draft && has_states(*draft)) {
        return "the draft model, " + draft->ptr->arch_name() + ", has recurrent layers, whose states cannot go back to where a draft was wrong";
    }
    const std::string other = draft ? difference(m, *draft) : "";
    return other.empty() ? "" : "the draft model has another vocabulary: " + other;
}

void draft_options::make_room(const model & m, llama_context_params & p) const {
    size_t n = std::max(n_max, n_max_lookup);
    if (llm_arch_supports_rs_rollback(m.ptr->arch)) {
        n = std::min(n, most_in_ubatch(p));
    }
    p.n_rs_seq = uint32_t(n);
}

llama_context_params draft_options::params(const llama_context_params & p) const {
    llama_context_params result = llama_context_default_params();
    result.n_ctx           = p.n_ctx;
    result.n_seq_max       = p.n_seq_max;
    result.n_batch         = p.n_batch;
    result.n_ubatch        = p.n_ubatch;
    result.n_threads       = n_threads       ? n_threads       : p.n_threads;
    result.n_threads_batch = n_threads_batch ? n_threads_batch : p.n_threads_batch;
    result.type_k          = type_k;
    result.type_v          = type_v;
    result.flash_attn_type = p.flash_attn_type;
    return result;
}

// --- drafts ---

static common_speculative * make(const draft_options & o, llama_context * ctx, llama_context * own) {
    common_params_speculative params;
    params.types.clear();
    if (o.lookup) {
        params.types.push_back(COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE);
        params.ngram_simple.size_n = uint16_t(o.n_gram);
        params.ngram_simple.size_m = uint16_t(std::max(o.n_max_lookup, o.n_gram)); // it finds nothing that is shorter than what it looks for
    }
    if (o.draft) {
        params.types.push_back(COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE);
        params.draft.n_max   = int32_t(o.n_max);
        params.draft.p_min   = o.p_min;
        params.draft.ctx_tgt = ctx;
        params.draft.ctx_dft = own;
    }
    try {
        return common_speculative_init(params, llama_n_seq_max(ctx));
    } catch (const std::exception & e) {
        throw job_error("context", std::string("tokens cannot be drafted: ") + e.what());
    }
}

static int32_t n_vocab_of(const llama_context * ctx) {
    return llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)));
}

drafter::drafter(const draft_options & o, llama_context * ctx, llama_context_ptr given)
    : o(o), own(std::move(given)), n_vocab(own ? std::min(n_vocab_of(ctx), n_vocab_of(own.get())) : n_vocab_of(ctx)), spec(make(o, ctx, own.get())) {
    for (uint32_t i = 0; own && i < llama_n_seq_max(ctx); i++) {
        held.emplace_back(own.get(), llama_seq_id(i));
    }
}

static size_t n_same(const std::vector<llama_token> & a, const std::vector<llama_token> & b) {
    return size_t(std::mismatch(a.begin(), a.begin() + int64_t(std::min(a.size(), b.size())), b.begin()).first - a.begin());
}

// What the draft model holds becomes a beginning of the sequence, all but its last token, and the rest waits to be read.
void drafter::take_up(const cache_sequence & s) {
    constexpr size_t much = 32; // tokens that are sooner copied than read

    cache_sequence & h = held[size_t(s.id)];
    const size_t n_read = s.tokens.size() - 1;
    size_t same = std::min(n_same(h.tokens, s.tokens), n_read);
    if (std::min(same, h.n_cached) + much < n_read) { // a copy of another sequence, or one that has begun as another did
        const auto n_held = [&](const cache_sequence & x) { return std::min({ n_same(x.tokens, s.tokens), x.n_cached, n_read }); };
        const auto best   = std::max_element(held.begin(), held.end(), [&](const auto & x, const auto & y) { return n_held(x) < n_held(y); });
        if (n_held(*best) > std::min(same, h.n_cached) + much && h.copy(*best)) {
            same = std::min(n_same(h.tokens, s.tokens), n_read);
        }
    }
    if (!h.cut(same)) {
        h.cut(0);
    }
    h.tokens.insert(h.tokens.end(), s.tokens.begin() + int64_t(h.tokens.size()), s.tokens.begin() + int64_t(n_read));
}

// Reads a ubatch of what the draft model lacks. False: it could not.
bool drafter::follow(const std::vector<wish> & wishes) {
    token_batch batch;
    size_t      n_left = llama_n_ubatch(own.get());
    std::vector<std::pair<cache_sequence *, size_t>> pieces;
    for (const wish & w : wishes) {
        take_up(*w.s);
        cache_sequence & h = held[size_t(w.s->id)];
        const size_t     n = std::min(h.n_pending(), n_left);
        const auto   begin = h.tokens.begin() + int64_t(h.n_cached);
        if (n == 0 || std::any_of(begin, begin + int64_t(n), [&](llama_token t) { return t >= n_vocab; })) {
            continue;
        }
        for (size_t i = h.n_cached; i < h.n_cached + n; i++) {
            batch.add(h.tokens[i], i, h.id, false);
        }
        n_left -= n;
        pieces.push_back({ &h, n });
    }
    if (!batch.empty() && !common_speculative_process(spec.get(), batch.view())) {
        return false;
    }
    for (const auto & [h, n] : pieces) {
        h->advance(n);
    }
    return true;
}

// A sequence's tokens without the last, which comes back at the end: llama.cpp wants it apart, and a long text is not copied for one token.
class without_last {
public:
    explicit without_last(std::vector<llama_token> & tokens) : tokens(&tokens), last(tokens.back()) { tokens.pop_back(); }
    without_last(without_last && other) noexcept : tokens(std::exchange(other.tokens, nullptr)), last(other.last) {}
    ~without_last() {
        if (tokens) {
            tokens->push_back(last); // where it was: nothing to allocate
        }
    }

private:
    std::vector<llama_token> * tokens;

public:
    const llama_token last;
};

// Drafts for sequences that the draft model has read.
void drafter::guess(const std::vector<wish> & wishes) {
    {
        std::vector<without_last> parted;
        parted.reserve(wishes.size());
        for (const wish & w : wishes) {
            cache_sequence & s = *w.s;
            parted.emplace_back(s.tokens);
            common_speculative_get_draft_params(spec.get(), s.id) = {
                /* .drafting = */ true,
                /* .n_max    = */ int32_t(std::min(w.n_max, std::max(o.n_max, o.n_max_lookup))),
                /* .pos0     = */ llama_pos(s.tokens.size()),
                /* .id_last  = */ parted.back().last,
                /* .prompt   = */ &s.tokens,
                /* .result   = */ &s.draft,
            };
        }
        common_speculative_draft(spec.get());
    }

    for (const wish & w : wishes) {
        cache_sequence & s = *w.s;
        if (own) { // it has read the last token and some of its draft, or nothing where the draft was looked up: its cache says how much
            cache_sequence & h = held[size_t(s.id)];
            h.tokens.push_back(s.tokens.back());
            h.tokens.insert(h.tokens.end(), s.draft.begin(), s.draft.end());
            h.n_cached = size_t(llama_memory_seq_pos_max(llama_get_memory(own.get()), s.id) + 1);
            h.tokens.resize(h.n_cached);
        }
        s.draft.erase(std::find_if(s.draft.begin(), s.draft.end(), [&](llama_token t) { return t >= n_vocab; }), s.draft.end());
    }
}

void drafter::draft(const std::vector<wish> & wishes) {
    bool done = false;
    try { // buffers that a larger graph needs may not be had
        done = !own || follow(wishes);
        if (done) {
            std::vector<wish> ready;
            std::copy_if(wishes.begin(), wishes.end(), std::back_inserter(ready), [&](const wish & w) {
                return w.n_max > 0 && (!own || (held[size_t(w.s->id)].n_pending() == 0 && w.s->tokens.back() < n_vocab));
            });
            guess(ready);
        }
    } catch (const std::exception &) {
        done = false;
    }
    for (const wish & w : wishes) {
        if (!done) { // the text goes on without
            common_speculative_get_draft_params(spec.get(), w.s->id).drafting = false; // what it points to is gone
            w.s->draft.clear();
            if (own) {
                held[size_t(w.s->id)].recover();
            }
        }
    }
}

} // namespace duo::abi
