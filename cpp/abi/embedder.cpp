#include "embedder.h"

#include "engine-thread.h"
#include "estimate.h"
#include "handle-table.h"
#include "log.h"
#include "lora.h"

#include "common.h"
#include "ggml.h"
#include "llama-model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <shared_mutex>

namespace duo::abi {

size_t embedder::size() const {
    return ranks() ? 1 : size_t(llama_model_n_embd_out(mdl->ptr.get()));
}

// --- creation ---

embedder_options embedder_options::read(options o) {
    embedder_options result = { llama_context_default_params() };
    llama_context_params & p = result.params;
    p.embeddings = true;
    p.kv_unified = true; // texts share the cells
    p.n_ctx      = uint32_t(o.integer("contextSize", 1, 1 << 24).value_or(0));
    p.n_seq_max  = uint32_t(o.integer("sequences", 1, int64_t(llama_max_parallel_sequences())).value_or(16));
    p.n_threads  = int32_t(o.integer("threads", 1, GGML_MAX_N_THREADS).value_or(common_cpu_get_num_math()));
    p.n_threads_batch = p.n_threads;

    static const std::vector<std::pair<std::string, enum llama_pooling_type>> kinds = {
        { "model", LLAMA_POOLING_TYPE_UNSPECIFIED }, { "mean", LLAMA_POOLING_TYPE_MEAN }, { "cls", LLAMA_POOLING_TYPE_CLS }, { "last", LLAMA_POOLING_TYPE_LAST },
        { "rank", LLAMA_POOLING_TYPE_RANK },
    };
    std::vector<std::string> names;
    for (const auto & k : kinds) {
        names.push_back(k.first);
    }
    const auto name = o.one_of("pooling", names).value_or("model");
    p.pooling_type  = std::find_if(kinds.begin(), kinds.end(), [&](const auto & k) { return k.first == name; })->second;
    o.finish();
    return result;
}

static const char * pooling_name(enum llama_pooling_type type) {
    switch (type) {
        case LLAMA_POOLING_TYPE_MEAN: return "mean";
        case LLAMA_POOLING_TYPE_CLS:  return "cls";
        case LLAMA_POOLING_TYPE_LAST: return "last";
        case LLAMA_POOLING_TYPE_RANK: return "rank";
        default:                      return "none";
    }
}

void create_embedder(job & j, std::shared_ptr<model> m, const embedder_options & o) {
    require_weights(*m, "embed with");
    const llama_model * ptr = m->ptr.get();
    if (llama_model_has_encoder(ptr) && llama_model_has_decoder(ptr)) {
        throw job_error("context", "the model has an encoder and a decoder: it has no embeddings of texts");
    }
    const bool can_rank = ptr->cls_out || ptr->cls;
    llama_context_params p = o.params;
    if (p.pooling_type == LLAMA_POOLING_TYPE_UNSPECIFIED) {
        p.pooling_type = ptr->hparams.pooling_type;
        if (p.pooling_type == LLAMA_POOLING_TYPE_UNSPECIFIED || p.pooling_type == LLAMA_POOLING_TYPE_NONE) {
            p.pooling_type = LLAMA_POOLING_TYPE_MEAN; // it says nothing
        }
    }
    if (p.pooling_type == LLAMA_POOLING_TYPE_RANK && !can_rank) {
        throw job_error("context", "the model has no head that ranks: it is no reranker");
    }
    const uint32_t n_train = uint32_t(std::max(llama_model_n_ctx_train(ptr), 1));
    if (p.n_ctx > n_train) { // beyond them an encoder has no positions
        throw option_error("contextSize", p.n_ctx, "an integer from 1 to " + std::to_string(n_train) + ", the tokens that the model was trained for");
    }
    if (p.n_ctx == 0) {
        p.n_ctx = std::min(n_train, 2048u);
    }
    const size_t max_tokens = p.n_ctx;
    // A text is pooled out of one ubatch. llama.cpp tries its largest one with as many tokens of each sequence, and takes it amiss where that does not come out even.
    p.n_batch = p.n_ubatch = (p.n_ctx + p.n_seq_max - 1) / p.n_seq_max * p.n_seq_max;
    p.n_ctx   = GGML_PAD(p.n_ubatch, 256);
    start_backends();

    check_fits(*m, nullptr, p);

    log_capture errors;
    std::shared_lock lock(adapters_of_models());
    llama_context_ptr ctx(llama_init_from_model(m->ptr.get(), p));
    lock.unlock();
    static const bool armed = arm_exit_handler();
    (void) armed;
    if (!ctx) {
        throw job_error("context", errors.reason("llama.cpp could not create the context and gave no reason"));
    }
    const auto e = std::make_shared<embedder>(std::move(m), std::move(ctx), max_tokens);
    j.finish([&] {
        return json {
            { "embedder",    handles().add(e, j.owner) },
            { "size",        e->size() },
            { "pooling",     pooling_name(llama_pooling_type(e->ptr.get())) },
            { "contextSize", e->max_tokens },
            { "sequences",   llama_n_seq_max(e->ptr.get()) },
        };
    });
}

void free_embedder(std::shared_ptr<embedder> e, std::shared_ptr<job> j) {
    run_alone(std::move(j), [e = std::move(e)](job & j) mutable {
        e.reset();
        j.finish([] { return json::object(); });
    });
}

// --- texts ---

using token_list = std::vector<llama_token>;

// Calls take(i, numbers) for each of the texts, as many at a time as a batch holds.
template <class F> static void pool_each(job & j, embedder & e, const std::vector<token_list> & texts, F && take) {
    llama_context * ctx     = e.ptr.get();
    const size_t    n_batch = e.max_tokens;
    const size_t    n_seq   = llama_n_seq_max(ctx);
    for (size_t i = 0; i < texts.size(); i++) {
        if (texts[i].empty() || texts[i].size() > n_batch) {
            throw job_error(texts[i].empty() ? "option" : "full", "texts: number " + std::to_string(i) + " has " + std::to_string(texts[i].size()) + " tokens, and one has from 1 to " +
                    std::to_string(n_batch), texts[i].empty() ? json { { "name", "texts" }, { "value", i }, { "expected", "texts of at least a token" } } : json::object());
        }
    }

    for (size_t done = 0; done < texts.size();) {
        j.throw_if_cancelled();
        j.set_progress(double(done) / double(texts.size()));

        token_list                tokens;
        std::vector<llama_pos>    pos;
        std::vector<llama_seq_id> ids;
        size_t n = 0;
        for (; done + n < texts.size() && n < n_seq && tokens.size() + texts[done + n].size() <= n_batch; n++) {
            const token_list & text = texts[done + n];
            for (size_t i = 0; i < text.size(); i++) {
                tokens.push_back(text[i]);
                pos.push_back(llama_pos(i));
                ids.push_back(llama_seq_id(n));
            }
        }
        std::vector<int32_t>        n_seq_id(tokens.size(), 1);
        std::vector<int8_t>         output(tokens.size(), 1);
        std::vector<llama_seq_id *> seq_id(tokens.size());
        for (size_t i = 0; i < tokens.size(); i++) {
            seq_id[i] = &ids[i];
        }
        if (llama_memory_t mem = llama_get_memory(ctx)) {
            llama_memory_clear(mem, /*data=*/ false);
        }

        log_capture errors;
        llama_set_abort_callback(ctx, [](void * data) { return static_cast<job *>(data)->cancelled(); }, &j);
        const int32_t status = llama_decode(ctx, { int32_t(tokens.size()), tokens.data(), nullptr, pos.data(), n_seq_id.data(), seq_id.data(), output.data() });
        llama_set_abort_callback(ctx, nullptr, nullptr);
        static const bool armed = arm_exit_handler();
        (void) armed;
        j.throw_if_cancelled();
        if (status != 0) {
            throw job_error("decode", "llama_decode failed with status " + std::to_string(status) + ": " + errors.reason("llama.cpp gave no reason"));
        }
        for (size_t i = 0; i < n; i++) {
            const float * numbers = llama_get_embeddings_seq(ctx, llama_seq_id(i));
            if (!numbers) {
                throw job_error("decode", "llama.cpp gave no embedding of text " + std::to_string(done + i));
            }
            take(done + i, numbers);
        }
        done += n;
    }
}

static token_list tokens_of(job & j, const model & m, const options & o, const char * key, const json & given, bool add_special) {
    if (given.is_string() && m.has_vocab()) {
        const auto & text = given.get_ref<const std::string &>();
        return tokenize(m, text.data(), int32_t(text.size()), add_special, /*parse_special=*/ false, &j);
    }
    token_list ids;
    for (const auto & id : given.is_array() ? given : json::array({ json() })) {
        if (!id.is_number_integer() || id < 0 || id >= llama_vocab_n_tokens(m.vocab)) {
            throw o.error(key, m.has_vocab() ? "texts, or arrays of the vocabulary's ids" : "arrays of ids: the model has no vocabulary");
        }
        ids.push_back(id.get<llama_token>());
    }
    return ids;
}

static json list_of(options & o, const char * key) {
    const json * given = o.value(key);
    if (!given || !given->is_array() || given->empty()) {
        throw o.error(key, "an array of at least one text");
    }
    return *given;
}

void embed(job & j, embedder & e, options o) {
    const json given     = list_of(o, "texts");
    const bool normalize = o.boolean("normalize").value_or(true);
    o.finish();
    if (e.ranks()) {
        throw job_error("context", "this embedder ranks: make one with another \"pooling\" to embed");
    }
    std::vector<token_list> texts;
    size_t n_tokens = 0;
    for (const auto & text : given) {
        texts.push_back(tokens_of(j, *e.mdl, o, "texts", text, /*add_special=*/ true));
        n_tokens += texts.back().size();
    }

    std::lock_guard lock(e.mutex);
    const size_t size = e.size();
    std::vector<float> all(texts.size() * size);
    pool_each(j, e, texts, [&](size_t i, const float * numbers) {
        double sum = 0;
        for (size_t k = 0; k < size; k++) {
            sum += double(numbers[k]) * numbers[k];
        }
        const double scale = normalize && sum > 0 ? 1 / std::sqrt(sum) : 1;
        for (size_t k = 0; k < size; k++) {
            all[i * size + k] = float(numbers[k] * scale);
        }
    });
    j.set_data(all);
    j.finish([&] { return json { { "size", size }, { "texts", texts.size() }, { "tokens", n_tokens } }; });
}

// What a reranker reads of a query and a document, as llama.cpp's server has it.
static token_list pair_of(job & j, const model & m, const std::string & query, const std::string & document) {
    const auto plain = [&](const std::string & text, bool parse_special = false) {
        return tokenize(m, text.data(), int32_t(text.size()), /*add_special=*/ false, parse_special, &j);
    };
    token_list result;
    const auto add = [&](const token_list & tokens) { result.insert(result.end(), tokens.begin(), tokens.end()); };

    if (const char * form = llama_model_chat_template(m.ptr.get(), "rerank")) {
        // the form's own special tokens are some, those of the texts are none
        const std::string text = form;
        for (size_t from = 0; from < text.size();) {
            const size_t at_query = text.find("{query}", from), at_document = text.find("{document}", from);
            const size_t at = std::min(at_query, at_document);
            add(plain(text.substr(from, at - from), /*parse_special=*/ true));
            if (at == std::string::npos) {
                break;
            }
            add(plain(at == at_query ? query : document));
            from = at + strlen(at == at_query ? "{query}" : "{document}");
        }
        return result;
    }
    const llama_token eos = llama_vocab_eos(m.vocab) != LLAMA_TOKEN_NULL ? llama_vocab_eos(m.vocab) : llama_vocab_sep(m.vocab);
    const auto add_if = [&](bool wanted, llama_token token) {
        if (wanted && token != LLAMA_TOKEN_NULL) {
            result.push_back(token);
        }
    };
    add_if(llama_vocab_get_add_bos(m.vocab), llama_vocab_bos(m.vocab));
    add(plain(query));
    add_if(llama_vocab_get_add_eos(m.vocab), eos);
    add_if(llama_vocab_get_add_sep(m.vocab), llama_vocab_sep(m.vocab));
    add(plain(document));
    add_if(llama_vocab_get_add_eos(m.vocab), eos);
    return result;
}

void rank(job & j, embedder & e, options o) {
    const auto query     = o.string("query");
    const json documents = list_of(o, "documents");
    if (!query) {
        throw o.error("query", "a text");
    }
    o.finish();
    if (!e.ranks()) {
        throw job_error("context", "this embedder does not rank: make one with \"pooling\": \"rank\", of a reranker");
    }
    if (!e.mdl->has_vocab()) {
        throw o.error("query", "none: the model has no vocabulary");
    }
    std::vector<token_list> texts;
    for (const auto & document : documents) {
        if (!document.is_string()) {
            throw o.error("documents", "texts");
        }
        texts.push_back(pair_of(j, *e.mdl, *query, document));
    }

    std::lock_guard lock(e.mutex);
    std::vector<float> scores(texts.size());
    pool_each(j, e, texts, [&](size_t i, const float * numbers) { scores[i] = numbers[0]; });
    j.set_data(scores);
    j.finish([&] { return json { { "documents", texts.size() } }; });
}

} // namespace duo::abi
