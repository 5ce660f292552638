// Images in models with M-RoPE, whose tokens share positions and leave some out: with no head streaming the logits are stock's, with heads streaming windows
// count tokens; what comes in an order that llama.cpp's mask does not follow is refused, and so are images without causal attention.
#include "architectures.h"
#include "check.h"
#include "contexts.h"
#include "decode.h"
#include "image-inputs.h"
#include "random-model.h"

#include "duo-report.h"
#include "llama-kv-cache-duo.h"
#include "llama-memory-hybrid-duo.h"
#include "llama-arch.h"
#include "llama-context.h"
#include "llama-model.h"
#include "visibility.h"

#include <string>
#include <vector>

namespace {

std::string log_text; // errors since it was last emptied

context_ptr make(const llama_model_ptr_t & model, llama_context_params p, int n_ubatch = 64) {
    p.n_threads = p.n_threads_batch = 1;
    p.n_ubatch  = n_ubatch;
    return make_context(model.get(), p);
}

llama_context_params streaming(float sparsity, const std::string & gates, int sink, int recent, int chunk = 1) {
    llama_context_params p = duo_params(GGML_TYPE_F32, 1024, sparsity, gates.empty() ? nullptr : gates.c_str());
    p.duo.sink   = sink;
    p.duo.recent = recent;
    p.duo.chunk  = chunk;
    return p;
}

std::vector<float> all_logits(llama_context * ctx, const std::vector<input> & inputs, int piece) {
    llama_memory_clear(llama_get_memory(ctx), true);
    std::vector<float> logits;
    CHECK_EQ(decode(ctx, inputs, 0, inputs.size(), piece, true, logits), 0);
    return logits;
}

int n_tokens(llama_context * ctx, llama_seq_id seq = 0) { return int(duo_cache_in(ctx->get_memory())->tokens_at(seq, 0, -1).n); }

const architecture & architecture_of(const std::string & name) {
    for (const architecture & a : architectures()) {
        if (a.name == name) {
            return a;
        }
    }
    throw std::runtime_error("there is no architecture " + name);
}

llama_model_ptr_t one_layer(const std::string & name) {
    random_model_params p = architecture_of(name).params(fresh_seed());
    p.n_layer = 1;
    return make_random_model(p);
}

// --- exactness ---

// Every architecture that has M-RoPE: stock's logits where no head streams, and the same in whatever pieces where some do.
void test_architectures() {
    int n = 0;
    for (const architecture & a : architectures()) {
        const auto model = a.load(fresh_seed());
        if (model->hparams.n_pos_per_embd() == 1) {
            continue;
        }
        ++n;
        std::mt19937_64 rng(fresh_seed());
        auto inputs = two_images(model.get(), rng);
        for (int i = 0; a.name == "hunyuan_vl" && i < int(inputs.size()); ++i) { // whose images have a position a token, beside rows and columns
            inputs[i].at = inputs[i].token < 0 ? duo_positions::token { i, i % 7, i / 7 } : duo_positions::token { i, i, i };
        }
        const auto gates = random_gates(model.get(), fresh_seed());
        const size_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model.get()));

        const auto want = all_logits(make(model, stock_params(GGML_TYPE_F32, 1024)).get(), inputs, 64);
        double worst = 0.0;
        for (const auto & [sparsity, recent] : { std::pair(0.0f, 64), std::pair(1.0f, 1024) }) { // with windows as wide as the context, too
            const auto ctx = make(model, streaming(sparsity, "", 4, recent));
            for (const int piece : { 512, 13 }) {
                const double e = worst_relative(all_logits(ctx.get(), inputs, piece), want, n_vocab);
                worst = std::max(worst, e);
                CHECK(e < 1e-5);
            }
        }
        const auto mixed = make(model, streaming(0.5f, gates, 8, 24));
        const auto whole = all_logits(mixed.get(), inputs, 512);
        CHECK(worst_relative(whole, want, n_vocab) > 1e-4); // what streams does matter
        const double pieces = worst_relative(all_logits(mixed.get(), inputs, 1 + int(rng() % 20)), whole, n_vocab);
        CHECK(pieces < 1e-5);
        printf("%-12s %zu tokens up to position %d: %.1e from stock, pieces %.1e apart\n", a.name.c_str(), inputs.size(), inputs.back().at.pos, worst, pieces);
    }
    CHECK(n >= 10);
}

// What streaming heads see: in a model of one layer rows depend on nothing but their tokens, so stock with the seen tokens alone has the logits.
void test_windows() {
    for (const char * name : { "qwen2vl", "qwen3vl" }) {
        const auto model = one_layer(name);
        const size_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model.get()));
        std::mt19937_64 rng(fresh_seed());
        double worst = 0.0;
        for (const int chunk : { 1, 1 + int(rng() % 30) }) {
            auto inputs = two_images(model.get(), rng);
            llama_pos pos = inputs.back().at.pos + 1;
            add_image(inputs, 10, 15, llama_model_n_embd_inp(model.get()), pos, rng); // more than a ring has cells
            add_text(inputs, 30, int(n_vocab), pos, rng);
            const int sink = int(rng() % 40), recent = int(rng() % 60);
            const auto ctx = make(model, streaming(1.0f, "", sink, recent, chunk), 16);
            CHECK(duo_kv_size_of(ctx.get()).n_cells_streaming < inputs.size());
            const auto found = all_logits(ctx.get(), inputs, 40);
            const auto stock = make(model, stock_params(GGML_TYPE_F32, 1024));
            for (int i = 0; i < 12; ++i) {
                const int p = i == 0 ? int(inputs.size()) - 1 : int(rng() % inputs.size());
                std::vector<input> seen;
                for (int j = 0; j <= p; ++j) {
                    if (j < sink || j >= duo_window_begin(p, recent, chunk)) {
                        seen.push_back(inputs[j]);
                    }
                }
                const auto want = all_logits(stock.get(), seen, 512);
                const double e = relative(&found[p * n_vocab], &want[want.size() - n_vocab], n_vocab);
                worst = std::max(worst, e);
                CHECK(e < 1e-5);
            }
        }
        printf("%s: what windows see of images, %.1e from stock\n", name, worst);
    }
}

// Images of two sequences in one batch, and positions further on than the context has room for tokens.
void test_sequences() {
    const auto model = architecture_of("qwen3vl").load(fresh_seed());
    const auto gates = random_gates(model.get(), fresh_seed());
    const int  n_embd = llama_model_n_embd_inp(model.get());
    const size_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model.get()));
    std::mt19937_64 rng(fresh_seed());
    llama_context_params params = streaming(0.5f, gates, 8, 24);
    params.n_seq_max = 2;
    params.n_ctx     = 2048;
    const auto both = make(model, params), one = make(model, streaming(0.5f, gates, 8, 24));

    std::vector<input> inputs[2], batch;
    std::vector<llama_seq_id> seqs;
    for (int s = 0; s < 2; ++s) {
        llama_pos pos = s * 3000;
        add_image(inputs[s], 9, 8, n_embd, pos, rng);
    }
    for (size_t i = 0; i < inputs[0].size(); ++i) {
        for (int s = 0; s < 2; ++s) {
            batch.push_back(inputs[s][i]);
            seqs.push_back(s);
        }
    }
    input_batch together(batch.data(), int(batch.size()), 0, seqs);
    CHECK_EQ(llama_decode(both.get(), together.get()), 0);
    for (int s = 0; s < 2; ++s) {
        const auto want = all_logits(one.get(), inputs[s], 512);
        CHECK(relative(llama_get_logits_ith(both.get(), int(batch.size()) - 2 + s), &want[want.size() - n_vocab], n_vocab) < 1e-5);
        CHECK_EQ(llama_memory_seq_pos_max(llama_get_memory(both.get()), s), s * 3000);
    }
}

// --- taking back, saving, copying ---

// Removing from any position on leaves the tokens that stock leaves, and what follows is the same.
void test_removal() {
    for (const char * name : { "qwen2vl", "qwen35" }) {
        const auto model = architecture_of(name).load(fresh_seed());
        const bool recurrent = llm_arch_is_hybrid(model->arch);
        std::mt19937_64 rng(fresh_seed());
        auto inputs = two_images(model.get(), rng);
        auto params = duo_params(GGML_TYPE_F32, 1024, 0.0f);
        auto stock_like = stock_params(GGML_TYPE_F32, 1024);
        params.n_rs_seq = stock_like.n_rs_seq = recurrent ? 8 : 0;
        const auto ctx = make(model, params), stock = make(model, stock_like);
        llama_memory_t mem = llama_get_memory(ctx.get()), stock_mem = llama_get_memory(stock.get());
        int n_removed = 0;
        for (int i = 0; i < 30; ++i) {
            all_logits(ctx.get(), inputs, 64);
            all_logits(stock.get(), inputs, 64);
            const llama_pos last = inputs.back().at.pos;
            const llama_pos from = i % 3 == 0 || recurrent ? last - int(rng() % 12) : 1 + llama_pos(rng() % last);
            const bool ok = llama_memory_seq_rm(mem, 0, from, -1);
            CHECK(ok || recurrent); // whose states go back a few tokens
            if (!ok) {
                CHECK_EQ(llama_memory_seq_pos_max(mem, 0), last);
                continue;
            }
            ++n_removed;
            CHECK(llama_memory_seq_rm(stock_mem, 0, from, -1));
            const llama_pos end = llama_memory_seq_pos_max(mem, 0);
            if (!recurrent) {
                CHECK_EQ(end, llama_memory_seq_pos_max(stock_mem, 0)); // stock's recurrent part may say a position that no token has
            }
            CHECK_EQ(n_tokens(ctx.get()), std::count_if(inputs.begin(), inputs.end(), [&](const input & x) { return x.at.pos < from; }));
            std::vector<input> more;
            llama_pos pos = from;
            add_text(more, 5, 100, pos, rng);
            std::vector<float> found, want;
            CHECK_EQ(decode(ctx.get(), more, 0, 5, 5, false, found), 0);
            CHECK_EQ(decode(stock.get(), more, 0, 5, 5, false, want), 0);
            CHECK(relative(found, want) < 1e-5);
        }
        CHECK(n_removed > 5);
        // a gap that holds no token can be removed, and nothing goes with it
        llama_memory_clear(mem, true);
        std::vector<input> gap;
        llama_pos pos = 0;
        add_text(gap, 5, 100, pos, rng);
        pos += 10;
        add_text(gap, 5, 100, pos, rng);
        all_logits(ctx.get(), gap, 64);
        CHECK(llama_memory_seq_rm(mem, 0, 7, 12));
        CHECK_EQ(n_tokens(ctx.get()), 10);
        CHECK(!llama_memory_seq_rm(mem, 0, 3, 12));
        CHECK_EQ(n_tokens(ctx.get()), 10);
        // and a sequence can be removed that begins late
        llama_memory_clear(mem, true);
        all_logits(ctx.get(), { gap.begin() + 5, gap.end() }, 64);
        CHECK(llama_memory_seq_rm(mem, 0, 9, -1));
        CHECK_EQ(llama_memory_seq_pos_max(mem, 0), -1);
        all_logits(ctx.get(), inputs, 64);
        CHECK_EQ(n_tokens(ctx.get()), int(inputs.size()));
    }
}

// States and copies hold where in an image they were made, and go on there.
void test_states() {
    const auto model = architecture_of("qwen2vl").load(fresh_seed());
    const auto gates = random_gates(model.get(), fresh_seed());
    std::mt19937_64 rng(fresh_seed());
    const auto inputs = two_images(model.get(), rng);
    const size_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model.get()));
    llama_context_params params = streaming(0.5f, gates, 8, 24);
    params.n_seq_max = 2;
    params.n_ctx     = 2048;
    const auto ctx = make(model, params), other = make(model, params);
    llama_memory_t mem = llama_get_memory(ctx.get());
    const auto want = all_logits(ctx.get(), inputs, 64);
    const auto same = [&](const std::vector<float> & found, size_t begin) {
        return worst_relative(found, { want.begin() + begin * n_vocab, want.end() }, n_vocab) < 1e-5;
    };
    size_t first = 0; // of the first image
    while (inputs[first].token >= 0) {
        ++first;
    }
    for (const size_t at : { first, first + 1, first + 2, first + 5 }) {
        llama_memory_clear(mem, true);
        std::vector<float> before, found;
        CHECK_EQ(decode(ctx.get(), inputs, 0, at, 64, true, before), 0);
        std::vector<uint8_t> state(llama_state_seq_get_size(ctx.get(), 0));
        CHECK_EQ(llama_state_seq_get_data(ctx.get(), state.data(), state.size(), 0), state.size());
        CHECK_EQ(llama_state_seq_set_data(other.get(), state.data(), state.size(), 1), state.size());
        CHECK_EQ(n_tokens(other.get(), 1), int(at));
        CHECK_EQ(decode(other.get(), inputs, at, inputs.size(), 64, true, found, 1), 0);
        CHECK(same(found, at));
        std::vector<uint8_t> all(llama_state_get_size(ctx.get()));
        CHECK_EQ(llama_state_get_data(ctx.get(), all.data(), all.size()), all.size());
        CHECK_EQ(llama_state_set_data(other.get(), all.data(), all.size()), all.size());
        found.clear();
        CHECK_EQ(decode(other.get(), inputs, at, inputs.size(), 64, true, found), 0);
        CHECK(same(found, at));
        llama_memory_seq_cp(mem, 0, 1, -1, -1);
        for (const int s : { 0, 1 }) {
            found.clear();
            CHECK_EQ(decode(ctx.get(), inputs, at, inputs.size(), 64, true, found, s), 0);
            CHECK(same(found, at));
        }
    }

    // a partial state that ends in an image can be taken back by all of it, as the server takes back the last position of a checkpoint
    size_t end = first;
    while (inputs[end].token < 0) {
        ++end;
    }
    const auto flags = LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY;
    llama_memory_clear(mem, true);
    std::vector<float> found;
    CHECK_EQ(decode(ctx.get(), inputs, 0, end, 64, true, found), 0);
    const bool goes_back = llama_memory_seq_pos_min(mem, 0) < inputs[first].at.pos;
    std::vector<uint8_t> part(llama_state_seq_get_size_ext(ctx.get(), 0, flags));
    CHECK_EQ(llama_state_seq_get_data_ext(ctx.get(), part.data(), part.size(), 0, flags), part.size());
    CHECK_EQ(decode(ctx.get(), inputs, end, inputs.size(), 64, true, found), 0);
    CHECK_EQ(llama_state_seq_set_data_ext(ctx.get(), part.data(), part.size(), 0, flags), part.size());
    CHECK_EQ(n_tokens(ctx.get()), int(end));
    CHECK_EQ(llama_memory_seq_pos_max(mem, 0), inputs[first].at.pos);
    CHECK_EQ(llama_memory_seq_rm(mem, 0, inputs[first].at.pos, -1), goes_back);
    const size_t from = goes_back ? first : end;
    CHECK_EQ(n_tokens(ctx.get()), int(from));
    found.clear();
    CHECK_EQ(decode(ctx.get(), inputs, from, inputs.size(), 64, true, found), 0);
    CHECK(same(found, from));

    // a state of text has no more than its branch and its numbers to say what it holds, a state with images a few bytes for each
    const auto size_of = [&](const std::vector<input> & x) {
        all_logits(ctx.get(), x, 64);
        return int64_t(llama_state_seq_get_size(ctx.get(), 0));
    };
    std::vector<input> text;
    llama_pos pos = 0;
    add_text(text, int(inputs.size()), int(n_vocab), pos, rng);
    CHECK_EQ(size_of(inputs) - size_of(text), 4 * 24); // two images, and two texts that do not begin at 0

    // one of the version before is refused by its name
    std::vector<uint8_t> state(llama_state_seq_get_size(ctx.get(), 0));
    CHECK_EQ(llama_state_seq_get_data(ctx.get(), state.data(), state.size(), 0), state.size());
    CHECK_EQ(state[12], 6);
    state[12] = 5;
    log_text.clear();
    CHECK_EQ(llama_state_seq_set_data(ctx.get(), state.data(), state.size(), 1), 0u);
    CHECK(log_text.find("version 5 of its format; expected 6") != std::string::npos);
}

// An aborted batch of an image: what is left of it is exact. llama.cpp asks for the whole image to go, which may be more than can be taken back.
void test_aborts() {
    const auto model = architecture_of("qwen2vl").load(fresh_seed());
    const auto gates = random_gates(model.get(), fresh_seed());
    std::mt19937_64 rng(fresh_seed());
    int abort_after = -1, n_aborted = 0, n_whole = 0, n_part = 0;
    llama_context_params params = streaming(0.5f, gates, 8, 24);
    params.abort_callback      = [](void * data) { int & n = *(int *) data; return n >= 0 && n-- == 0; };
    params.abort_callback_data = &abort_after;
    const auto ctx = make(model, params, 16), fresh = make(model, streaming(0.5f, gates, 8, 24), 16);
    for (int i = 0; i < 40; ++i) {
        std::vector<input> inputs;
        llama_pos pos = 0;
        add_text(inputs, 1 + int(rng() % 60), 100, pos, rng);
        const int first = int(inputs.size());
        add_image(inputs, 15, 15, llama_model_n_embd_inp(model.get()), pos, rng);
        llama_memory_clear(llama_get_memory(ctx.get()), true);
        std::vector<float> logits;
        CHECK_EQ(decode(ctx.get(), inputs, 0, first, 512, false, logits), 0);
        abort_after = int(rng() % 400);
        const int status = decode(ctx.get(), inputs, first, inputs.size(), 512, false, logits);
        abort_after = -1;
        if (status == 0) {
            continue;
        }
        CHECK_EQ(status, 2);
        ++n_aborted;
        const int n = n_tokens(ctx.get());
        n_whole += n == first;
        n_part  += n > first;
        CHECK(n >= first && n < int(inputs.size()) && (n - first) % 16 == 0);
        if (n > first) {
            std::vector<float> refused; // where the image was cut is not known
            log_text.clear();
            CHECK(decode(ctx.get(), inputs, n, n + 1, 1, false, refused) != 0);
            CHECK(log_text.find("remove the part and decode the whole image") != std::string::npos);
        }
        inputs.resize(n);
        add_text(inputs, 5, 100, pos, rng);
        std::vector<float> found;
        CHECK_EQ(decode(ctx.get(), inputs, n, inputs.size(), 5, false, found), 0);
        const auto want = all_logits(fresh.get(), inputs, 64);
        CHECK(relative(found.data(), &want[want.size() - found.size()], found.size()) < 1e-5);
    }
    printf("%d images aborted, %d of them left in part, %d not at all\n", n_aborted, n_part, n_whole);
    CHECK(n_whole > 0 && n_part > 0);
}

// --- refusals ---

// Decodes what must be refused, with these words, and changes nothing.
void check_refused(llama_context * ctx, const std::vector<input> & inputs, const char * words) {
    const int before = n_tokens(ctx);
    std::vector<float> logits;
    log_text.clear();
    CHECK(decode(ctx, inputs, 0, inputs.size(), 512, false, logits) != 0);
    check::report(log_text.find(words) != std::string::npos, __FILE__, __LINE__, std::string("a refusal with \"") + words + "\"", log_text);
    CHECK_EQ(n_tokens(ctx), before);
}

void test_refusals() {
    const auto model = architecture_of("qwen2vl").load(fresh_seed());
    std::mt19937_64 rng(fresh_seed());
    const int n_embd = llama_model_n_embd_inp(model.get());
    const auto ctx = make(model, duo_params(GGML_TYPE_F32, 256, 0.0f));
    std::vector<input> text, image;
    llama_pos pos = 0;
    add_text(text, 10, 100, pos, rng);
    add_image(image, 5, 6, n_embd, pos, rng);
    all_logits(ctx.get(), text, 64);
    const auto changed = [&](const auto & change) {
        auto x = image;
        change(x);
        return x;
    };
    check_refused(ctx.get(), changed([](auto & x) { std::swap(x[3], x[4]); }), "an image row by row");   // columns out of order
    check_refused(ctx.get(), changed([](auto & x) { std::swap(x[4], x[5]); }), "an image row by row");   // rows out of order
    check_refused(ctx.get(), changed([](auto & x) { x[4].at = x[3].at; }), "expected one behind");       // two in one place, which see each other in stock
    check_refused(ctx.get(), changed([&](auto & x) { x[0].at = text.back().at; }), "expected one behind");
    check_refused(ctx.get(), changed([&](auto & x) { x.insert(x.end(), 220, x.back()); for (size_t i = 30; i < x.size(); ++i) { x[i].at.y += int(i); } }), "has room for 256 tokens");
    std::vector<float> logits;
    CHECK_EQ(decode(ctx.get(), image, 0, 13, 512, false, logits), 0);
    check_refused(ctx.get(), changed([](auto & x) { x.erase(x.begin(), x.begin() + 12); }), "expected one behind"); // the last one again
    CHECK_EQ(decode(ctx.get(), image, 13, image.size(), 4, false, logits), 0);
    CHECK_EQ(n_tokens(ctx.get()), 40);

    // windows of the model's own count positions: no architecture has them and M-RoPE
    const auto windows = make(model, duo_params(GGML_TYPE_F32, 256, 0.0f));
    const_cast<llama_hparams &>(model->hparams).swa_type = LLAMA_SWA_TYPE_STANDARD;
    CHECK_EQ(decode(windows.get(), text, 0, text.size(), 64, false, logits), 0);
    check_refused(windows.get(), image, "sliding windows count positions");
}

// Gemma 3's images have attention that is not causal: refused, and the text goes on.
void test_images_without_causal_attention() {
    const auto model = architecture_of("gemma3").load(fresh_seed());
    std::mt19937_64 rng(fresh_seed());
    const auto ctx = make(model, duo_params(GGML_TYPE_F32, 1024, 0.0f));
    std::vector<input> inputs, image;
    llama_pos pos = 0;
    add_text(inputs, 10, 100, pos, rng);
    for (int i = 0; i < 16; ++i) {
        llama_pos p = pos + i;
        add_image(image, 1, 1, llama_model_n_embd_inp(model.get()), p, rng);
    }
    std::vector<float> found;
    CHECK_EQ(decode(ctx.get(), inputs, 0, 10, 64, false, found), 0);
    llama_set_causal_attn(ctx.get(), false);
    check_refused(ctx.get(), image, "not causal, as that of some models' images");
    llama_set_causal_attn(ctx.get(), true);
    add_text(inputs, 5, 100, pos, rng);
    found.clear();
    CHECK_EQ(decode(ctx.get(), inputs, 10, 15, 64, false, found), 0);
    const auto want = all_logits(make(model, stock_params(GGML_TYPE_F32, 1024)).get(), inputs, 64);
    CHECK(relative(found.data(), &want[want.size() - found.size()], found.size()) < 1e-5);
}

} // namespace

int main() {
    llama_log_set([](ggml_log_level level, const char * text, void *) { log_text += level >= GGML_LOG_LEVEL_ERROR ? text : ""; }, nullptr);
    llama_backend_init();
    test_architectures();
    test_windows();
    test_sequences();
    test_removal();
    test_states();
    test_aborts();
    test_refusals();
    test_images_without_causal_attention();
    return check::result();
}
