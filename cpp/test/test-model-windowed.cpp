// Mixed heads in a real model with sliding windows: test-model-windowed MODEL TEXT. The text is what prompts are taken from.
#include "decode.h"
#include "real-model.h"

#include "duo-report.h"
#include "llama-context.h"
#include "llama-model.h"
#include "llama-memory.h"

#include <cstdio>
#include <fstream>
#include <iterator>

namespace {

real_model model;

std::vector<llama_token> text;

constexpr uint32_t n_ctx = 8192;

std::vector<llama_token> slice(size_t from, size_t to) { return { text.begin() + from, text.begin() + to }; }

llama_context_params duo(float sparsity, const char * gates = nullptr) {
    llama_context_params p = duo_params(GGML_TYPE_F16, n_ctx, sparsity, gates);
    p.duo.sink   = 16;
    p.duo.recent = 64;
    return p;
}

context_ptr make_context(const llama_context_params & params) { return ::make_context(model.ptr.get(), params); }

// Along stock's own greedy tokens after a prompt of 4,096, no global head streaming picks the same where stock is sure. In one place or another it may not:
// activations have 8 bits, and what they round to moves a margin by as much as 0.9 between stock's own f16 and f32 caches.
void test_greedy() {
    const auto ref = make_context(stock_params(GGML_TYPE_F16, n_ctx));
    const auto ctx = make_context(duo(0.0f));
    std::vector<float> want  = model.decode(ref.get(), slice(0, 4096), 512);
    std::vector<float> found = model.decode(ctx.get(), slice(0, 4096), 512);
    constexpr float sure = 0.4f;
    agreement theirs;
    int n_sure = 0;
    for (int i = 0; i < 256; ++i) {
        const auto [token, margin] = best(want);
        theirs.add(want, found, sure);
        n_sure += margin > sure;
        want  = model.decode(ref.get(), { token }, 1);
        found = model.decode(ctx.get(), { token }, 1);
    }
    printf("f16 KV: after 4096 tokens, along stock's 256 greedy tokens the same token at %d; where stock's margin is over %.1f, %d of %d; "
            "logits at most %.2e apart, widest margin missed %.3f\n",
            theirs.n_same, sure, theirs.n_sure, n_sure, theirs.worst, theirs.widest_miss);
    CHECK(theirs.n_sure >= 0.99 * n_sure);
    CHECK(n_sure > 128);
}

// What is allocated is what can be computed by hand: a windowed layer keeps its window, a ubatch and what may be taken back, a global one everything.
void test_bytes() {
    const llama_hparams & hparams = model.ptr->hparams;
    const std::string gates = random_gates(model.ptr.get(), fresh_seed());
    for (const float sparsity : { 0.0f, 0.4f, 1.0f }) { // of three heads none, one and all
        auto params = duo(sparsity, gates.c_str());
        params.n_ubatch = 256;
        const auto ctx = make_context(params);
        uint64_t windowed = 0, global = 0, streaming = 0;
        const uint32_t n_streaming = sparsity == 0.0f ? 0 : sparsity == 1.0f ? 3 : 1;
        uint32_t n = 0;
        for (uint32_t il = 0; il < hparams.n_layer(); ++il) {
            const uint64_t row = (256 + 256) * sizeof(ggml_fp16_t); // of K and V, one head a layer
            CHECK_EQ(hparams.is_swa(il), il % 6 != 5);
            if (hparams.is_swa(il)) {
                windowed += row * GGML_PAD(511 + 1 + 256 + 64, 64);
            } else if (n++ < n_streaming) {
                streaming += row * GGML_PAD(16 + 64 + 1 + 256 + 64, 64);
            } else {
                global += row * n_ctx;
            }
        }
        const duo_kv_size size = duo_kv_size_of(ctx.get()), plan = duo_kv_size_for(model.ptr.get(), params);
        CHECK_EQ(size.windowed_bytes, windowed);
        CHECK_EQ(size.streaming_bytes, streaming);
        CHECK_EQ(size.retrieval_bytes, global);
        CHECK_EQ(size.total_bytes, windowed + streaming + global);
        CHECK_EQ(plan.total_bytes, size.total_bytes);
        uint64_t allocated = 0;
        for (const auto & [_, bytes] : ctx->get_memory()->memory_breakdown()) {
            allocated += bytes;
        }
        CHECK(allocated >= size.total_bytes && allocated <= size.total_bytes + hparams.n_layer() * 256); // head maps
        printf("f16 KV, %u of 3 global heads streaming: %.2f MiB of windows, %.2f of streaming heads, %.2f of retrieval heads, %llu bytes more allocated\n",
                size.n_streaming, windowed / 1048576.0, streaming / 1048576.0, global / 1048576.0, (unsigned long long) (allocated - size.total_bytes));
    }
}

// Whatever came between, what follows is what a context that decoded the same tokens alone foretells, to the bit. Pieces are multiples of 16 tokens: llama.cpp's
// matrix products sum what is left over in another order.
void test_sequences() {
    const std::string gates = random_gates(model.ptr.get(), fresh_seed());
    const auto params = duo(0.4f, gates.c_str());
    const auto fresh = make_context(params), ctx = make_context(params);
    constexpr size_t n = 1600; // windows and rings have gone round
    model.decode(fresh.get(), slice(0, n), 512);
    const auto want = model.decode(fresh.get(), slice(n, n + 96), 48);

    llama_memory_t mem = llama_get_memory(ctx.get());
    model.decode(ctx.get(), slice(0, n), 400);
    std::vector<uint8_t> checkpoint(llama_state_seq_get_size_ext(ctx.get(), 0, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY));
    CHECK_EQ(llama_state_seq_get_data_ext(ctx.get(), checkpoint.data(), checkpoint.size(), 0, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY), checkpoint.size());

    // tails that are taken back
    for (const size_t back : { 2, 40, 64 }) {
        model.decode(ctx.get(), slice(3000, 3000 + back), 32);
        CHECK(llama_memory_seq_rm(mem, 0, llama_pos(n), -1));
    }
    CHECK(model.decode(ctx.get(), slice(n, n + 96), 96) == want);
    CHECK(llama_memory_seq_rm(mem, 0, llama_pos(n + 32), -1));
    CHECK(model.decode(ctx.get(), slice(n + 32, n + 96), 64) == want);

    // a checkpoint of the rings, far behind
    model.decode(ctx.get(), slice(n + 96, n + 1400), 512);
    CHECK(!llama_memory_seq_rm(mem, 0, llama_pos(n), -1)); // the windows have gone on
    CHECK_EQ(llama_memory_seq_pos_max(mem, 0), llama_pos(n) + 1399);
    CHECK_EQ(llama_state_seq_set_data_ext(ctx.get(), checkpoint.data(), checkpoint.size(), 0, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY), checkpoint.size());
    CHECK_EQ(llama_memory_seq_pos_max(mem, 0), llama_pos(n) - 1);
    CHECK(model.decode(ctx.get(), slice(n, n + 96), 48) == want);

    // a whole state in another context
    std::vector<uint8_t> state(llama_state_seq_get_size(ctx.get(), 0));
    CHECK_EQ(llama_state_seq_get_data(ctx.get(), state.data(), state.size(), 0), state.size());
    const auto other = make_context(params);
    CHECK_EQ(llama_state_seq_set_data(other.get(), state.data(), state.size(), 0), state.size());
    CHECK(model.decode(other.get(), slice(n + 96, n + 144), 16) == model.decode(fresh.get(), slice(n + 96, n + 144), 48));
    printf("after %zu tokens: rollbacks, a checkpoint of %.2f MiB and a state of %.2f MiB go on to the bit\n", n, checkpoint.size() / 1048576.0, state.size() / 1048576.0);
}

} // namespace

int main(int argc, char ** argv) {
    if (argc != 3) {
        printf("usage: test-model-windowed MODEL TEXT\n");
        return 2;
    }
    model = real_model::load(argv[1]);
    if (!model.ptr) {
        return 1;
    }
    std::ifstream file(argv[2], std::ios::binary);
    text = model.tokenize(std::string(std::istreambuf_iterator<char>(file), {}));
    CHECK(text.size() >= 4096);
    if (text.size() >= 4096) {
        test_bytes();
        test_greedy();
        test_sequences();
    }
    model.ptr.reset();
    return check::result();
}
