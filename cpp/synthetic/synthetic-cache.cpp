#include "synthetic-cache.h"

#include "duo-config.h"
#include "mixed-attention.h"

#include "llama-batch.h"
#include "llama-context.h"
#include "llama-kv-cache-iswa.h"
#include "llama-kv-cache.h"
#include "llama-memory-hybrid-duo.h"
#include "llama-memory-hybrid.h"
#include "llama-memory.h"
#include "llama-model.h"
#include "llama-vocab.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"

#include <algorithm>
#include <map>
#include <random>
#include <stdexcept>
#include <tuple>

llama_batch make_batch(int n, int position, int n_seq, int first_seq) {
    llama_batch batch = llama_batch_init(n * n_seq, 0, 1);
    batch.n_tokens = n * n_seq;
    for (int i = 0; i < batch.n_tokens; ++i) {
        batch.pos[i]       = position + i % n;
        batch.token[i]     = int64_t(batch.pos[i]) * 7919 % 32000;
        batch.n_seq_id[i]  = 1;
        batch.seq_id[i][0] = first_seq + i / n;
        batch.logits[i]    = i % n == n - 1;
    }
    return batch;
}

void mark_held(llama_context * ctx, int depth, int n_seq) {
    const auto & model = ctx->get_model();
    llama_memory_t mem = ctx->get_memory();
    for (int seq = 0; seq < n_seq; ++seq) {
        for (int p = llama_memory_seq_pos_max(mem, seq) + 1; p < depth;) {
            const int n = std::min(32768, depth - p);
            llama_batch batch = make_batch(n, p, 1, seq);
            std::fill_n(batch.token, n, 0); // which every vocabulary has
            llama_batch_allocr balloc(1);
            if (!balloc.init(batch, model.vocab, mem, model.hparams.n_embd, llama_n_seq_max(ctx), false)) {
                throw std::runtime_error("the batch is refused");
            }
            const auto mctx = mem->init_batch(balloc, llama_n_ubatch(ctx), false); // a window's cells are enough for a ubatch
            if (mctx->get_status() != LLAMA_MEMORY_STATUS_SUCCESS) {
                throw std::runtime_error("the cache does not take " + std::to_string(depth) + " tokens");
            }
            do {
                mctx->apply();
            } while (mctx->next());
            llama_batch_free(batch);
            p += n;
        }
    }
}

// `period` random rows of a head in the tensor's type, each `copies` times.
static std::vector<uint8_t> random_rows(ggml_type type, int64_t head_size, int64_t copies, int period, uint64_t seed) {
    std::mt19937_64 rng(seed);
    std::normal_distribution<float> normal;
    std::vector<float> values;
    for (int i = 0; i < period; ++i) {
        std::vector<float> row(head_size);
        for (float & x : row) {
            x = normal(rng);
        }
        for (int64_t c = 0; c < copies; ++c) {
            values.insert(values.end(), row.begin(), row.end());
        }
    }
    std::vector<uint8_t> out(ggml_row_size(type, values.size()));
    ggml_quantize_chunk(type, values.data(), out.data(), 0, period * copies, head_size, nullptr);
    return out;
}

// Repeats the pattern over the whole tensor: once from here, then by copies on the device of what is there already.
static void tile(ggml_tensor * t, const std::vector<uint8_t> & pattern) {
    ggml_context_ptr ctx { ggml_init({ 128 * ggml_tensor_overhead(), nullptr, /*.no_alloc =*/ true }) };
    auto view = [&](size_t offset, size_t bytes) {
        ggml_tensor * v = ggml_view_1d(ctx.get(), t, int64_t(bytes / ggml_type_size(t->type) * ggml_blck_size(t->type)), offset);
        ggml_backend_view_init(v);
        return v;
    };
    const size_t all = ggml_nbytes(t);
    size_t done = std::min(all, pattern.size());
    ggml_backend_tensor_set(t, pattern.data(), 0, done);
    while (done < all) {
        const size_t n = std::min(done, all - done);
        ggml_backend_tensor_copy(view(0, n), view(done, n));
        done += n;
    }
}

// The rows of a layer of stock's caches.
static llama_kv_cache * stock_cache(llama_memory_i * memory, bool windowed) {
    if (const auto * iswa = dynamic_cast<llama_kv_cache_iswa *>(memory)) {
        return windowed ? iswa->get_swa() : iswa->get_base();
    }
    if (const auto * hybrid = dynamic_cast<llama_memory_hybrid *>(memory)) {
        return hybrid->get_mem_attn();
    }
    return dynamic_cast<llama_kv_cache *>(memory);
}

void fill_rows(llama_context * ctx) {
    const auto & model   = ctx->get_model();
    const auto & hparams = model.hparams;
    auto * duo = duo_cache_in(ctx->get_memory());
    using rows_key = std::tuple<ggml_type, int64_t, int64_t, int, uint64_t>;
    std::map<rows_key, std::vector<uint8_t>> patterns; // alike in all layers of a kind
    const auto fill = [&](ggml_tensor * t, int64_t head_size, int64_t copies, int period, uint64_t seed) {
        auto & pattern = patterns[{ t->type, head_size, copies, period, seed }];
        if (pattern.empty()) {
            pattern = random_rows(t->type, head_size, copies, period, seed);
        }
        tile(t, pattern);
    };
    for (uint32_t il = 0; il < hparams.n_layer(); ++il) {
        if (!hparams.has_kv(il) || !duo_attends(model, il)) {
            continue;
        }
        ggml_tensor * k, * v;
        if (duo) {
            k = duo->get_layer(il).k;
            v = duo->get_layer(il).v;
        } else {
            // the cache shows its V as views only
            ggml_context_ptr views { ggml_init({ 8 * ggml_tensor_overhead(), nullptr, /*.no_alloc =*/ true }) };
            llama_kv_cache::slot_info first = {};
            first.resize(1);
            const auto * stock = stock_cache(ctx->get_memory(), hparams.is_swa(il));
            k = stock->get_k_storage(il);
            v = stock->get_v(views.get(), il, 1, first)->view_src;
        }
        const int64_t copies = duo ? 1 : hparams.n_head_kv(il); // stock: all heads of a cell beside one another
        const int     period = hparams.is_swa(il) ? WINDOW_ROW_PERIOD : ROW_PERIOD;
        fill(k, hparams.n_embd_head_k(il), copies, period, 1);
        fill(v, hparams.n_embd_head_v(il), copies, period, 2);
    }
}

attention_work work_of(const llama_context * ctx, ggml_type type_k, ggml_type type_v, int depth) {
    const auto & model   = ctx->get_model();
    const auto & hparams = model.hparams;
    const auto & cparams = ctx->get_cparams();
    const duo_config * duo = cparams.duo.get();
    const uint64_t n_seq = cparams.kv_unified ? 1 : cparams.n_seq_max;
    attention_work work;
    for (uint32_t il = 0; il < hparams.n_layer(); ++il) {
        if (!duo_attends(model, il)) {
            continue;
        }
        if (duo) { // whose budget may have chosen other types
            type_k = duo->type_k_of(duo->layers[il].stored_by);
            type_v = duo->type_v;
        }
        const uint64_t row = ggml_row_size(type_k, hparams.n_embd_head_k(il)) + ggml_row_size(type_v, hparams.n_embd_head_v(il));
        for (uint32_t h = 0; h < hparams.n_head_kv(il); ++h) {
            int keys = depth;
            if (hparams.is_swa(il)) {
                keys = std::min(depth, int(hparams.n_swa));
            } else if (duo && duo->layers[il].recent[h] != GGML_MIXED_ATTN_ALL) {
                keys = std::min(depth, duo->layers[il].sink + duo->layers[il].recent[h]);
            }
            work.bytes += row * n_seq * keys;
            work.flop  += 2.0 * (hparams.n_embd_head_k(il) + hparams.n_embd_head_v(il)) * hparams.n_gqa(il) * keys;
        }
    }
    return work;
}
