// What sequences may do: rolling back, copying, saving, restoring. The logits are always those of a context that decoded the same tokens from the start,
// or the operation is refused and changes nothing.
#include "architectures.h"
#include "check.h"
#include "contexts.h"
#include "decode.h"
#include "image-inputs.h"
#include "random-model.h"

#include "duo-report.h"
#include "llama-arch.h"
#include "llama-batch.h"
#include "llama-context.h"
#include "llama-io.h"
#include "llama-kv-cache-iswa.h"
#include "llama-memory-hybrid.h"
#include "llama-memory.h"
#include "llama-model.h"
#include "llama.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <sys/resource.h>
#include <unistd.h>

namespace {

llama_context_params duo(ggml_type type_kv, float sparsity, const char * gates = nullptr) {
    llama_context_params p = duo_params(type_kv, 1024, sparsity, gates);
    p.n_threads = p.n_threads_batch = 1; // small models are done sooner by one thread than by two that wait for each other
    p.duo.sink   = 16;
    p.duo.recent = 48;
    return p;
}

context_ptr make_context(const llama_model_ptr_t & model, const llama_context_params & params) { return ::make_context(model.get(), params); }

random_model_params model_params(int64_t n_head, int64_t n_head_kv) {
    random_model_params p;
    p.n_head    = n_head;
    p.n_head_kv = n_head_kv;
    p.head_size = 32;
    p.seed      = fresh_seed();
    return p;
}

// What the memory makes of a batch: the sequences and positions of its ubatches.
std::vector<std::vector<std::pair<int, int>>> split(llama_context * ctx, const llama_batch & batch) {
    const llama_model & model = ctx->get_model();
    llama_batch_allocr balloc(model.hparams.n_pos_per_embd());
    CHECK(balloc.init(batch, model.vocab, ctx->get_memory(), model.hparams.n_embd_inp(), llama_n_seq_max(ctx), false));
    const auto mctx = ctx->get_memory()->init_batch(balloc, llama_n_ubatch(ctx), false);
    std::vector<std::vector<std::pair<int, int>>> result;
    do {
        const llama_ubatch & u = mctx->get_ubatch();
        result.emplace_back();
        for (uint32_t i = 0; i < u.n_tokens; ++i) {
            result.back().push_back({ u.seq_id[i][0], u.pos[i] });
        }
    } while (mctx->next());
    return result;
}

// Rolling back, copying, saving: the logits are those of a context that decoded the same tokens from the start, or the operation is refused.
void test_sequences() {
    const random_model_params p = model_params(9, 3);
    const auto model  = make_random_model(p);
    const auto gates  = random_gates(model.get(), fresh_seed());
    const auto tokens = random_tokens(1000, p.n_vocab, fresh_seed());
    const auto other  = random_tokens(1000, p.n_vocab, fresh_seed());

    llama_context_params params = duo(GGML_TYPE_F32, 0.5f, gates.c_str());
    params.n_ubatch  = 64;
    params.n_seq_max = 3;
    params.n_ctx     = 3072;
    const auto a = make_context(model, params);
    const auto b = make_context(model, params);
    llama_memory_t mem = llama_get_memory(a.get());
    const int ring = int(duo_kv_size_of(a.get()).n_cells_streaming) - 16;

    auto fresh = [&](const std::vector<llama_token> & t, int n) { return prefill(b.get(), std::vector<llama_token>(t.begin(), t.begin() + n), 64); };
    auto same  = [&](const std::vector<float> & x, const std::vector<float> & y) { return relative(x, y) < 1e-5; };

    // a tail within the slack can be replaced, one beyond it is refused, and pos_min says where the line is
    prefill(a.get(), tokens, 64);
    CHECK_EQ(llama_memory_seq_pos_max(mem, 0), 999);
    const int line = llama_memory_seq_pos_min(mem, 0) + 1;
    CHECK_EQ(line, 999 - ring + 48 + 1);
    CHECK(line <= 1000 - 64);
    CHECK(!llama_memory_seq_rm(mem, 0, line - 1, -1));
    CHECK(!llama_memory_seq_rm(mem, 0, 10, 20));
    CHECK_EQ(llama_memory_seq_pos_max(mem, 0), 999);
    CHECK(llama_memory_seq_rm(mem, 0, line, -1));
    CHECK_EQ(llama_memory_seq_pos_max(mem, 0), line - 1);
    std::vector<llama_token> mixed(tokens.begin(), tokens.begin() + line);
    mixed.insert(mixed.end(), other.begin(), other.begin() + 1000 - line);
    std::vector<float> found;
    CHECK_EQ(decode(a.get(), mixed.data() + line, 60, line, false, found), 0);
    CHECK(same(found, fresh(mixed, line + 60)));
    // what was overwritten before the rollback stays lost
    CHECK(!llama_memory_seq_rm(mem, 0, line - 1, -1));

    // a copy goes on by itself
    llama_memory_seq_cp(mem, 0, 1, -1, -1);
    CHECK_EQ(llama_memory_seq_pos_max(mem, 1), line + 59);
    found.clear();
    CHECK_EQ(decode(a.get(), other.data(), 5, line + 60, false, found, 0), 0);
    found.clear();
    CHECK_EQ(decode(a.get(), mixed.data() + line + 60, 3, line + 60, false, found, 1), 0);
    CHECK(same(found, fresh(mixed, line + 63)));
    // copies that wait are carried out in order, whatever becomes of the sequences between; saving and restoring see them
    llama_memory_seq_cp(mem, 0, 1, -1, -1);
    llama_memory_seq_cp(mem, 1, 2, -1, -1);
    llama_memory_seq_rm(mem, 1, -1, -1);
    std::vector<uint8_t> copied(llama_state_seq_get_size(a.get(), 2)), original(llama_state_seq_get_size(a.get(), 0));
    llama_state_seq_get_data(a.get(), copied.data(), copied.size(), 2);
    llama_state_seq_get_data(a.get(), original.data(), original.size(), 0);
    const size_t id = 2 * sizeof(uint32_t); // a magic number and the sequence's id come first
    CHECK_EQ(copied.size(), original.size());
    CHECK(std::equal(copied.begin() + id, copied.end(), original.begin() + id));
    CHECK_EQ(llama_memory_seq_pos_max(mem, 2), line + 64);
    found.clear();
    CHECK_EQ(decode(a.get(), other.data() + 5, 3, line + 65, false, found, 2), 0);
    {
        std::vector<llama_token> all(mixed.begin(), mixed.begin() + line + 60);
        all.insert(all.end(), other.begin(), other.begin() + 8);
        CHECK(same(found, fresh(all, line + 68)));
    }
    llama_memory_seq_cp(mem, 0, 1, 0, 100); // part of a sequence: refused, target empty
    CHECK_EQ(llama_memory_seq_pos_max(mem, 1), -1);

    // saved and restored, whole and per sequence
    std::vector<uint8_t> state(llama_state_seq_get_size(a.get(), 0));
    CHECK_EQ(llama_state_seq_get_data(a.get(), state.data(), state.size(), 0), state.size());
    std::vector<float> want;
    CHECK_EQ(decode(a.get(), other.data() + 5, 4, line + 65, false, want, 0), 0);
    llama_memory_clear(llama_get_memory(b.get()), true);
    CHECK_EQ(llama_state_seq_set_data(b.get(), state.data(), state.size(), 1), state.size());
    found.clear();
    CHECK_EQ(decode(b.get(), other.data() + 5, 4, line + 65, false, found, 1), 0);
    CHECK(found == want);
    llama_context_params narrow = params;
    narrow.duo.sink = 8;
    const auto c = make_context(model, narrow);
    CHECK_EQ(llama_state_seq_set_data(c.get(), state.data(), state.size(), 0), 0u); // another layout: refused
    CHECK_EQ(llama_memory_seq_pos_max(llama_get_memory(c.get()), 0), -1);

    // a state outlives another context size, and is refused where it does not fit
    llama_context_params longer = params;
    longer.n_ctx = 6144;
    const auto d = make_context(model, longer);
    CHECK_EQ(llama_state_seq_set_data(d.get(), state.data(), state.size(), 0), state.size());
    found.clear();
    CHECK_EQ(decode(d.get(), other.data() + 5, 4, line + 65, false, found), 0);
    CHECK(found == want);
    longer.n_ctx = 768;
    const auto shorter = make_context(model, longer);
    CHECK_EQ(llama_state_seq_set_data(shorter.get(), state.data(), state.size(), 0), 0u);
    CHECK_EQ(llama_memory_seq_pos_max(llama_get_memory(shorter.get()), 0), -1);
    CHECK_EQ(llama_state_seq_set_data(d.get(), state.data(), state.size() / 2, 1), 0u); // cut off
    CHECK_EQ(llama_memory_seq_pos_max(llama_get_memory(d.get()), 1), -1);
    CHECK_EQ(llama_state_seq_set_data(d.get(), state.data(), state.size(), 3), 0u);     // no such sequence

    // the partial state holds the rings alone, and takes a sequence back to where it was as long as the rest is there
    const auto flags = LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY;
    std::vector<uint8_t> part(llama_state_seq_get_size_ext(d.get(), 0, flags));
    CHECK(part.size() < state.size() / 2);
    CHECK_EQ(llama_state_seq_get_data_ext(d.get(), part.data(), part.size(), 0, flags), part.size());
    found.clear();
    CHECK_EQ(decode(d.get(), other.data(), 400, line + 69, false, found), 0);
    CHECK(!llama_memory_seq_rm(llama_get_memory(d.get()), 0, line + 69, -1));
    CHECK_EQ(llama_state_seq_set_data_ext(d.get(), part.data(), part.size(), 0, flags), part.size());
    CHECK_EQ(llama_memory_seq_pos_max(llama_get_memory(d.get()), 0), line + 68);
    found.clear();
    CHECK_EQ(decode(d.get(), other.data() + 9, 5, line + 69, false, found), 0);
    want.clear();
    CHECK_EQ(decode(b.get(), other.data() + 9, 5, line + 69, false, want, 1), 0);
    CHECK(found == want);
    CHECK_EQ(llama_state_seq_set_data_ext(d.get(), part.data(), part.size(), 1, flags), 0u); // nothing there to go with it

    // two copies that went on differently share what they have in common, and no more
    llama_memory_seq_cp(llama_get_memory(d.get()), 0, 1, -1, -1);
    const int fork = llama_memory_seq_pos_max(llama_get_memory(d.get()), 0) + 1;
    CHECK_EQ(decode(d.get(), other.data() + 20, 1, fork, false, found, 0), 0);
    CHECK_EQ(decode(d.get(), other.data() + 60, 30, fork, false, found, 1), 0);
    part.resize(llama_state_seq_get_size_ext(d.get(), 0, flags));
    CHECK_EQ(llama_state_seq_get_data_ext(d.get(), part.data(), part.size(), 0, flags), part.size());
    CHECK_EQ(llama_state_seq_set_data_ext(d.get(), part.data(), part.size(), 1, flags), part.size());
    CHECK_EQ(llama_memory_seq_pos_max(llama_get_memory(d.get()), 1), fork - 1);
    found.clear();
    want.clear();
    CHECK_EQ(decode(d.get(), other.data() + 20, 30, fork, false, found, 1), 0);
    CHECK(llama_memory_seq_rm(llama_get_memory(d.get()), 0, fork, -1));
    CHECK_EQ(decode(d.get(), other.data() + 20, 30, fork, false, want, 0), 0);
    CHECK(found == want);
    // a file that is cut off changes nothing
    const std::string path = "/tmp/llama-duo-test-" + std::to_string(fresh_seed());
    std::vector<llama_token> kept(1024);
    size_t n_kept = 0;
    CHECK(llama_state_seq_save_file(d.get(), path.c_str(), 0, other.data(), 7) > 0);
    CHECK(llama_state_seq_load_file(d.get(), path.c_str(), 2, kept.data(), kept.size(), &n_kept) > 0);
    CHECK_EQ(n_kept, 7u);
    CHECK_EQ(truncate(path.c_str(), 5000), 0);
    CHECK_EQ(llama_state_seq_load_file(d.get(), path.c_str(), 2, kept.data(), kept.size(), &n_kept), 0u);
    remove(path.c_str());
    CHECK_EQ(llama_memory_seq_pos_max(llama_get_memory(d.get()), 2), fork + 29);
    found.clear();
    want.clear();
    CHECK_EQ(decode(d.get(), other.data(), 3, fork + 30, false, found, 2), 0);
    CHECK_EQ(decode(d.get(), other.data(), 3, fork + 30, false, want, 0), 0);
    CHECK(found == want);
    // states on devices are refused
    CHECK_EQ(llama_state_seq_get_size_ext(d.get(), 0, LLAMA_STATE_SEQ_FLAGS_ON_DEVICE), 0u);

    // positions that do not follow are refused and change nothing
    found.clear();
    CHECK(decode(a.get(), other.data(), 1, line + 80, false, found) != 0);
    CHECK(decode(a.get(), other.data(), 1, 3, false, found) != 0);
    CHECK_EQ(llama_memory_seq_pos_max(mem, 0), line + 68);
    CHECK(!llama_memory_can_shift(mem));
    llama_memory_seq_add(mem, 0, 10, -1, 5);
    llama_memory_seq_div(mem, 0, 10, -1, 2);
    CHECK_EQ(llama_memory_seq_pos_max(mem, 0), line + 68);
}

// Where a sequence may resume is what seq_pos_min says, for any window, and resuming there is exact.
void test_resume() {
    random_model_params p = model_params(9, 3);
    p.n_layer = 2;
    const auto model  = make_random_model(p);
    const auto gates  = random_gates(model.get(), fresh_seed());
    const auto tokens = random_tokens(700, p.n_vocab, fresh_seed());
    std::mt19937_64 rng(fresh_seed());
    for (const int chunk : { 1, 7, 16, 64 }) {
        llama_context_params params = duo(GGML_TYPE_F32, 0.5f, gates.c_str());
        params.n_ubatch   = 32;
        params.duo.sink   = int(rng() % 40);
        params.duo.recent = int(rng() % 90);
        params.duo.chunk  = chunk;
        const auto ctx = make_context(model, params);
        llama_memory_t mem = llama_get_memory(ctx.get());
        const auto want = prefill(ctx.get(), tokens, 32);
        const int line = llama_memory_seq_pos_min(mem, 0) + 1;
        CHECK_EQ(line % chunk, 0);
        for (const int at : { line - chunk, line - 1, line, line + 1, line + chunk, 699 }) {
            prefill(ctx.get(), tokens, 32);
            const bool exact = llama_memory_seq_rm(mem, 0, at, -1);
            CHECK_EQ(exact, at >= line || at <= 0);
            if (exact) {
                std::vector<float> found;
                const int from = std::max(at, 0);
                CHECK_EQ(decode(ctx.get(), tokens.data() + from, 700 - from, from, false, found), 0);
                CHECK(relative(found, want) < 1e-5);
            }
        }
    }
}

// Sizes that only bound what fits do not keep a state from being loaded: a ring's, until it has gone round, and a window's where no head streams.
void test_states_of_other_sizes() {
    random_model_params p = model_params(4, 2);
    p.n_layer = 2;
    const auto model  = make_random_model(p);
    const auto gates  = random_gates(model.get(), fresh_seed());
    const auto tokens = random_tokens(600, p.n_vocab, fresh_seed());
    const auto make = [&](uint32_t n_ctx, uint32_t n_ubatch, float sparsity = 0.5f, int sink = 16) {
        llama_context_params params = duo(GGML_TYPE_F32, sparsity, gates.c_str());
        params.n_ctx    = n_ctx;
        params.n_ubatch = n_ubatch;
        params.duo.sink = sink;
        return make_context(model, params);
    };
    // Whether the other context takes n positions of the first, and goes on as if they were its own.
    const auto goes_on = [&](const context_ptr & from, int n, const context_ptr & to) {
        prefill(from.get(), std::vector<llama_token>(tokens.begin(), tokens.begin() + n), 64);
        std::vector<uint8_t> state(llama_state_seq_get_size(from.get(), 0));
        CHECK_EQ(llama_state_seq_get_data(from.get(), state.data(), state.size(), 0), state.size());
        llama_memory_clear(llama_get_memory(to.get()), true);
        if (llama_state_seq_set_data(to.get(), state.data(), state.size(), 0) != state.size()) {
            CHECK_EQ(llama_memory_seq_pos_max(llama_get_memory(to.get()), 0), -1);
            return false;
        }
        const int end = std::min(int(llama_n_ctx(to.get())), 600);
        std::vector<float> found, want;
        for (int i = n; i < end; i += 32) {
            found.clear();
            CHECK_EQ(decode(to.get(), &tokens[i], std::min(32, end - i), i, false, found), 0);
        }
        want = prefill(to.get(), std::vector<llama_token>(tokens.begin(), tokens.begin() + end), 64);
        CHECK(relative(found, want) < 1e-5);
        return true;
    };
    const auto small = make(256, 256), narrow = make(1024, 64), wide = make(1024, 256); // rings of 240, 240 and 432 cells
    CHECK_EQ(duo_kv_size_of(narrow.get()).n_cells_streaming, 256u);
    CHECK_EQ(duo_kv_size_of(small.get()).n_cells_streaming, 256u);
    CHECK_EQ(duo_kv_size_of(wide.get()).n_cells_streaming, 448u);
    for (const auto & [from, to] : { std::pair(small, wide), std::pair(wide, small), std::pair(narrow, wide), std::pair(wide, narrow) }) {
        CHECK(goes_on(from, 200, to));
        if (from != small) {
            CHECK_EQ(goes_on(from, 257, to), to != small); // one of the rings has gone round
            CHECK_EQ(goes_on(from, 500, to), to != small);
        }
    }
    CHECK(goes_on(small, 256, wide));
    CHECK(goes_on(narrow, 250, small) && goes_on(narrow, 500, narrow));
    // a ring too short for all that a state brings keeps what it sees
    llama_context_params patient = duo(GGML_TYPE_F32, 0.5f, gates.c_str());
    patient.n_ubatch = 64;
    patient.n_rs_seq = 400;
    CHECK(goes_on(make_context(model, patient), 590, narrow));
    CHECK(goes_on(make(1024, 64, 0.0f, 8), 500, make(1024, 512, 0.0f, 16)));
    CHECK(!goes_on(make(1024, 64, 0.5f, 8), 20, narrow)); // sinks do decide what rows mean
}

// What a state takes: of retrieval heads all positions, of streaming heads the sinks, the window and what may be taken back.
void test_sizes_of_states() {
    random_model_params p = model_params(4, 2);
    p.n_layer = 3;
    const auto model = make_random_model(p);
    const auto gates = random_gates(model.get(), fresh_seed());
    llama_context_params params = duo(GGML_TYPE_F16, 0.5f, gates.c_str());
    const auto ctx = make_context(model, params);
    const duo_kv_size size = duo_kv_size_of(ctx.get());
    const size_t row = 2 * p.head_size * sizeof(ggml_fp16_t); // K and V
    const size_t fixed = 8 + 64 + 24 + 16; // llama.cpp's own, the header, three numbers and one branch
    for (const int n : { 5, 17, 60, 200, 1000 }) {
        prefill(ctx.get(), random_tokens(n, p.n_vocab, fresh_seed()), 512);
        const auto positions = [&](int n_back) { return size_t(std::min(16, n) + std::max(0, n - std::max(16, n - n_back - 48))); };
        const auto whole = fixed + row * (size.n_retrieval * n + size.n_streaming * positions(64));
        const auto part  = fixed + row * size.n_streaming * positions(1);
        CHECK_EQ(llama_state_seq_get_size_ext(ctx.get(), 0, LLAMA_STATE_SEQ_FLAGS_NONE), whole);
        CHECK_EQ(llama_state_seq_get_size_ext(ctx.get(), 0, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY), part);
    }
}

// A state says how much it holds: what it cannot hold is refused before there is room made for it, even where the hash is right.
void test_forged_states() {
    random_model_params p = model_params(4, 2);
    p.n_layer = 1;
    const auto model = make_random_model(p);
    const auto gates = random_gates(model.get(), fresh_seed());
    const auto ctx   = make_context(model, duo(GGML_TYPE_F32, 0.5f, gates.c_str()));
    prefill(ctx.get(), random_tokens(40, p.n_vocab, fresh_seed()), 64);
    std::vector<uint8_t> state(llama_state_seq_get_size(ctx.get(), 0));
    CHECK_EQ(llama_state_seq_get_data(ctx.get(), state.data(), state.size(), 0), state.size());

    // llama.cpp's own 8 bytes, then the header, of which the last two words are the size of what the sequence holds and the hash, then what it holds
    constexpr size_t header = 8, n_held = header + 48, check = header + 56, held = header + 64;
    struct numbers { int64_t last; int32_t n_branches, n_runs; int64_t kept, branch_id, branch_begin; };
    const auto load_forged = [&](const std::function<void(numbers &)> & forge, size_t n_more = 0) {
        std::vector<uint8_t> bytes = state;
        numbers x;
        memcpy(&x, &bytes[held], sizeof(x));
        forge(x);
        memcpy(&bytes[held], &x, sizeof(x));
        bytes.insert(bytes.begin() + held + sizeof(x), n_more, 0);
        const uint64_t size = sizeof(x) + n_more;
        memcpy(&bytes[n_held], &size, sizeof(size));
        uint64_t hash = 14695981039346656037ull; // FNV-1a
        for (size_t i = header; i < held + size; ++i) {
            hash = i >= check && i < held ? hash : (hash ^ bytes[i]) * 1099511628211ull;
        }
        memcpy(&bytes[check], &hash, sizeof(hash));
        return llama_state_seq_set_data(ctx.get(), bytes.data(), bytes.size(), 0) != 0;
    };
    CHECK(load_forged([](numbers & x) { CHECK(x.last == 39 && x.n_runs == 0 && x.kept == 16 && x.n_branches == 1 && x.branch_begin == 0); }));

    rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    CHECK(!load_forged([](numbers & x) { x.last = x.n_branches = 1 << 25; })); // 512 MiB of branches
    getrusage(RUSAGE_SELF, &after);
    CHECK(after.ru_maxrss - before.ru_maxrss < 100 * 1024); // KiB

    CHECK(!load_forged([](numbers &) {}, 16)); // bytes that nothing is said about
    CHECK(!load_forged([](numbers & x) { x.last = INT32_MAX; }));
    CHECK(!load_forged([](numbers & x) { x.last = -2; }));
    CHECK(!load_forged([](numbers & x) { x.last = x.n_runs = 1 << 25; })); // 768 MiB of positions
    CHECK(!load_forged([](numbers & x) { x.n_runs = -1; }));
    CHECK(!load_forged([](numbers & x) { x.n_runs = 2; }, 48)); // of which one begins where the other does
    CHECK(!load_forged([](numbers & x) { x.kept = 41; }));
    CHECK(!load_forged([](numbers & x) { x.kept = 15; }));
    CHECK(!load_forged([](numbers & x) { x.branch_begin = 40; }));
    CHECK(!load_forged([](numbers & x) { x.branch_begin = INT64_MIN; }));
    CHECK_EQ(llama_memory_seq_pos_max(llama_get_memory(ctx.get()), 0), 39);
}

size_t n_bytes_of(const llama_memory_i * memory) {
    struct counter : llama_io_write_i {
        size_t n = 0;
        void write(const void *, size_t size) override { n += size; }
        void write_tensor(ggml_tensor *, size_t, size_t size) override { n += size; }
        size_t n_bytes() override { return n; }
    } count;
    memory->state_write(count, 0, 0);
    return count.n;
}

// The same of the numbers of cells that llama.cpp's own caches say: those of sliding windows, and those of recurrent layers.
void test_forged_cells() {
    for (const architecture & a : architectures()) {
        if (a.name != "gemma2" && a.name != "jamba") {
            continue;
        }
        const auto model = a.load(fresh_seed());
        const auto ctx   = ::make_context(model.get(), stock_params(GGML_TYPE_F32, 256));
        prefill(ctx.get(), random_tokens(40, llama_vocab_n_tokens(llama_model_get_vocab(model.get())), fresh_seed()), 64);
        std::vector<uint8_t> state(llama_state_seq_get_size(ctx.get(), 0));
        CHECK_EQ(llama_state_seq_get_data(ctx.get(), state.data(), state.size(), 0), state.size());

        // llama.cpp's own 8 bytes, then the parts; caches of attention say the number of streams before that of the cells
        auto * const iswa   = dynamic_cast<llama_kv_cache_iswa *>(ctx->get_memory());
        auto * const hybrid = dynamic_cast<llama_memory_hybrid *>(ctx->get_memory());
        const llama_memory_i * const first = iswa ? iswa->get_base() : hybrid->get_mem_attn();
        const size_t second = 8 + n_bytes_of(first);
        for (const size_t at : { size_t(8 + 4), iswa ? second + 4 : second }) {
            uint32_t found = 0;
            memcpy(&found, &state[at], sizeof(found));
            CHECK(found > 0 && found <= 40);
            for (const uint32_t n : { 2u, 257u, 1u << 30, UINT32_MAX }) {
                auto forged = state;
                memcpy(&forged[at], &n, sizeof(n));
                rusage before, after;
                getrusage(RUSAGE_SELF, &before);
                CHECK_EQ(llama_state_seq_set_data(ctx.get(), forged.data(), forged.size(), 0), size_t(0));
                getrusage(RUSAGE_SELF, &after);
                CHECK(after.ru_maxrss - before.ru_maxrss < 100 * 1024); // KiB
            }
            CHECK_EQ(llama_state_seq_set_data(ctx.get(), state.data(), state.size(), 0), state.size());
        }
    }
}

// Graphs are reserved for a multiple of the sequences, whatever their number, and each of them has cells of its own.
void test_many_sequences() {
    random_model_params p = model_params(4, 1);
    p.n_layer = 1;
    const auto model = make_random_model(p);
    llama_context_params params = duo(GGML_TYPE_F32, 1.0f);
    params.n_seq_max = 250;
    params.n_ctx     = 250 * 1024;
    const auto ctx = make_context(model, params);
    params.n_seq_max = 1;
    params.n_ctx     = 1024;
    const auto one = make_context(model, params);
    CHECK(ctx && one);
    const auto tokens = random_tokens(250 * 3, p.n_vocab, fresh_seed());
    const auto seqs   = [&](int i) { return std::vector<llama_token>(tokens.begin() + 3 * i, tokens.begin() + 3 * i + 3); };
    for (int t = 0; t < 3; ++t) {
        llama_batch batch = llama_batch_init(250, 0, 1);
        batch.n_tokens = 250;
        for (int i = 0; i < 250; ++i) {
            batch.token[i]     = seqs(i)[t];
            batch.pos[i]       = t;
            batch.n_seq_id[i]  = 1;
            batch.seq_id[i][0] = i;
            batch.logits[i]    = true;
        }
        CHECK_EQ(llama_decode(ctx.get(), batch), 0);
        llama_batch_free(batch);
    }
    for (const int i : { 0, 1, 77, 249 }) {
        const auto want = prefill(one.get(), seqs(i), 1);
        CHECK(relative(llama_get_logits_ith(ctx.get(), i), want.data(), want.size()) < 1e-5);
    }
}

// Sequences that decode are not put into one ubatch with the rest of another's prompt: they would take its slow kernels.
void test_split() {
    random_model_params p = model_params(4, 2);
    p.n_layer = 1;
    const auto model = make_random_model(p);
    const auto gates = random_gates(model.get(), fresh_seed());
    llama_context_params params = duo(GGML_TYPE_F32, 0.5f, gates.c_str());
    params.n_seq_max = 8;
    params.n_ctx     = 8 * 1024;
    const auto ctx = make_context(model, params);
    std::vector<std::pair<int, int>> tokens; // sequence and position
    for (int s = 0; s < 8; ++s) {
        for (int i = 0; i < (s == 5 ? 505 : 1); ++i) {
            tokens.push_back({ s, i });
        }
    }
    llama_batch batch = llama_batch_init(int(tokens.size()), 0, 1);
    batch.n_tokens = int(tokens.size());
    for (int i = 0; i < batch.n_tokens; ++i) {
        batch.token[i]     = 1;
        batch.pos[i]       = tokens[i].second;
        batch.n_seq_id[i]  = 1;
        batch.seq_id[i][0] = tokens[i].first;
        batch.logits[i]    = true;
    }
    const auto ubatches = split(ctx.get(), batch);
    CHECK_EQ(ubatches.size(), 2u);
    CHECK_EQ(ubatches[0].size(), 8u);   // one token of each sequence
    CHECK_EQ(ubatches[1].size(), 504u); // the rest of the prompt
    llama_batch_free(batch);
}

// Two sequences in one batch are as two batches.
void test_batch_of_sequences() {
    const random_model_params p = model_params(8, 2);
    const auto model = make_random_model(p);
    const auto gates = random_gates(model.get(), fresh_seed());
    llama_context_params params = duo(GGML_TYPE_F32, 0.5f, gates.c_str());
    params.n_seq_max = 2;
    params.n_ctx     = 2048;
    const auto ctx = make_context(model, params);
    const auto one = make_context(model, params);
    std::vector<llama_token> tokens[2] = { random_tokens(200, p.n_vocab, fresh_seed()), random_tokens(200, p.n_vocab, fresh_seed()) };

    llama_batch batch = llama_batch_init(400, 0, 1);
    for (int i = 0; i < 400; ++i) {
        batch.token[i]     = tokens[i % 2][i / 2];
        batch.pos[i]       = i / 2;
        batch.n_seq_id[i]  = 1;
        batch.seq_id[i][0] = i % 2;
        batch.logits[i]    = i >= 398;
    }
    batch.n_tokens = 400;
    CHECK_EQ(llama_decode(ctx.get(), batch), 0);
    for (int s = 0; s < 2; ++s) {
        std::vector<float> want;
        CHECK_EQ(decode(one.get(), tokens[s].data(), 200, 0, false, want, s), 0);
        CHECK(relative(llama_get_logits_ith(ctx.get(), 398 + s), want.data(), want.size()) < 1e-5);
    }
    // a token in both sequences is refused
    batch.n_tokens = 1;
    batch.pos[0]   = 200;
    llama_seq_id both[] = { 0, 1 };
    llama_seq_id * own = batch.seq_id[0];
    batch.seq_id[0]   = both;
    batch.n_seq_id[0] = 2;
    batch.logits[0]   = true;
    CHECK(llama_decode(ctx.get(), batch) != 0);
    batch.seq_id[0] = own;
    llama_batch_free(batch);
}

// --- random interleavings ---

// Cells of heads that see a window, as a model of them has it.
struct ring_of_cells {
    int sink, recent, chunk, n;
};

// A sequence as a model keeps it: every token with its position, which decoding it came from, and which token each cell of a ring was last written for.
struct held {
    std::vector<input>            tokens;
    std::vector<int>              events; // [tokens]
    std::vector<std::vector<int>> cells;  // [rings][cells]
    int                           n_removed = 0; // how far the sequence went beyond where it is

    int size() const { return int(tokens.size()); }

    llama_pos pos_max() const { return tokens.empty() ? -1 : tokens.back().at.pos; }

    int n_before(llama_pos pos) const { return int(std::count_if(tokens.begin(), tokens.end(), [&](const input & t) { return t.at.pos < pos; })); }

    int n_at_last() const { return size() - n_before(pos_max()); }

    void truncate(int n) {
        n_removed += size() - n;
        tokens.resize(n);
        events.resize(n);
    }
};

int common_prefix(const held & a, const held & b) {
    int n = 0;
    while (n < a.size() && n < b.size() && a.events[n] == b.events[n]) {
        ++n;
    }
    return n;
}

// Drives contexts and the model side by side with random operations.
class interleaving {
public:
    interleaving(uint64_t seed, int round) : rng(seed) {
        random_model_params p = model_of(round);
        model     = make_random_model(p);
        recurrent = llm_arch_is_hybrid(model->arch);
        images    = model->hparams.n_pos_per_embd() > 1;
        const std::string gates = random_gates(model.get(), rng());
        const float sparsities[] = { 0.5f, 1.0f, 0.3f, 0.0f };
        llama_context_params params = duo(GGML_TYPE_F32, sparsities[round / 4 % 4], gates.c_str());
        params.n_ubatch   = 8 << pick(3);
        params.n_rs_seq   = recurrent && round % 8 < 4 ? 4 : 0;
        params.n_seq_max  = n_seq;
        params.n_ctx      = n_seq * n_ctx_seq;
        params.duo.sink   = pick(24);
        params.duo.recent = 1 + pick(40);
        params.duo.chunk  = pick(2) ? 1 : 1 + pick(30);
        params.abort_callback      = [](void * data) { return ((interleaving *) data)->aborts(); };
        params.abort_callback_data = this;
        for (auto & c : contexts) {
            c = make_context(model, params);
        }
        const duo_kv_size size = duo_kv_size_of(contexts[0].get());
        if (size.n_cells_streaming > 0) {
            rings.push_back({ params.duo.sink, params.duo.recent, params.duo.chunk, int(size.n_cells_streaming) - params.duo.sink });
        }
        if (size.n_cells_windowed > 0) {
            rings.push_back({ 0, n_swa - 1, 1, int(size.n_cells_windowed) });
        }
        params.n_seq_max = 1;
        params.n_ctx     = n_ctx_seq;
        params.abort_callback = nullptr;
        for (auto & r : references) {
            r.ctx = make_context(model, params);
        }
        note() << p.arch << ", sparsity " << params.duo.sparsity << ", ubatch " << params.n_ubatch;
        for (const ring_of_cells & r : rings) {
            note() << "ring: sink " << r.sink << ", recent " << r.recent << ", chunk " << r.chunk << ", " << r.n << " cells";
        }
    }

    // False once a check has failed; prints what was done until then.
    bool run(int n_steps) {
        for (int i = 0; i < n_steps; ++i) {
            const int n_failed = check::n_failed;
            step();
            for (int s = 0; s < n_seq; ++s) {
                CHECK_EQ(llama_memory_seq_pos_max(mem(), s), seqs[s].pos_max());
                CHECK_EQ(llama_memory_seq_pos_min(mem(), s), pos_min(seqs[s]));
            }
            if (check::n_failed > n_failed) {
                for (size_t t = trace.size() > 60 ? trace.size() - 60 : 0; t < trace.size(); ++t) {
                    fprintf(stderr, "  %s\n", trace[t].str().c_str());
                }
                return false;
            }
        }
        return true;
    }

    int n_compared = 0, n_refused = 0, n_aborted = 0, n_restored = 0, n_partly = 0, n_back = 0, n_images = 0;

private:
    static constexpr int n_seq     = 4;
    static constexpr int n_ctx_seq = 512;
    static constexpr int n_swa     = 24;

    // A model of a few small layers: all of attention, with sliding windows, with recurrent layers, with both; some of the first and the third take images.
    static random_model_params model_of(int round) {
        if (round % 8 == 0) {
            random_model_params p = model_params(4, round % 16 ? 4 : 2);
            p.n_layer   = 2;
            p.head_size = 16;
            p.n_vocab   = 64;
            return p;
        }
        const bool has_window   = round % 2;
        const std::string name  = round % 4 == 0 ? "qwen2vl" : round % 4 == 1 ? "olmo2" : round % 4 == 3 || round % 16 < 8 ? "lfm2" : "qwen35";
        for (const architecture & a : architectures()) {
            random_model_params p = a.params(fresh_seed());
            if (a.name == name && (p.metadata.find("sliding_window=") != std::string::npos) == has_window) {
                p.n_vocab   = 64;
                p.metadata += has_window ? " attention.sliding_window=" + std::to_string(n_swa) : "";
                return p;
            }
        }
        throw std::runtime_error("there is no such model of " + name);
    }

    int  pick(int n) { return int(rng() % n); }
    bool chance(int percent) { return pick(100) < percent; }

    llama_context * ctx() { return contexts[current].get(); }
    llama_memory_t  mem() { return llama_get_memory(ctx()); }

    std::ostringstream & note() {
        trace.emplace_back();
        return trace.back();
    }

    bool aborts() { return abort_after >= 0 && abort_after-- == 0; }

    void write(held & h, int token) const {
        h.cells.resize(rings.size());
        for (size_t i = 0; i < rings.size(); ++i) {
            const ring_of_cells & r = rings[i];
            if (token >= r.sink) {
                h.cells[i].resize(r.n, -1);
                h.cells[i][(token - r.sink) % r.n] = token;
            }
        }
    }

    // Whether all that heads with windows see from the p'th token on, of what lies before it, is still in their rings, and the recurrent state is that before it.
    bool exact(const held & h, int p) const {
        return (!recurrent || p == 0 || p == h.size()) && seen(h, p);
    }

    // The same of the rings alone.
    bool seen(const held & h, int p) const {
        for (size_t i = 0; i < rings.size(); ++i) {
            const ring_of_cells & r = rings[i];
            for (int j = std::max(r.sink, p / r.chunk * r.chunk - r.recent); j < p; ++j) {
                if (h.cells.empty() || h.cells[i].empty() || h.cells[i][(j - r.sink) % r.n] != j) {
                    return false;
                }
            }
        }
        return true;
    }

    // llama.cpp asks for it as the smallest position held; here: that before the first token that can be resumed from, with all behind it.
    int pos_min(const held & h) const {
        if (recurrent) {
            return h.pos_max(); // where its state is
        }
        int p = h.size();
        while (p > 0 && exact(h, p - 1)) {
            --p;
        }
        return h.size() == 0 ? -1 : p == 0 ? 0 : h.tokens[p - 1].at.pos;
    }

    void step() {
        const int dice = pick(100);
        if      (dice < 45) { decode_some(); }
        else if (dice < 50) { decode_badly(); }
        else if (dice < 65) { roll_back(); }
        else if (dice < 70) { remove_whole(); }
        else if (dice < 77) { copy(); }
        else if (dice < 79) { keep(); }
        else if (dice < 80) { clear(); }
        else if (dice < 85) { save(); }
        else if (dice < 92) { restore(); }
        else if (dice < 95) { restore_damaged(); }
        else                { move_all(); }
    }

    // --- decoding ---

    // Tokens of a batch, all of texts or all of images, and their sequences.
    struct batch_inputs {
        std::vector<input>        inputs;
        std::vector<llama_seq_id> seqs;

        input_batch batch() const { return input_batch(inputs.data(), int(inputs.size()), 0, seqs); }
    };

    static input text_at(llama_token token, llama_pos pos) { return { token, {}, { pos, pos, pos } }; }

    input pixel_at(llama_pos pos, int y, int x) {
        input t = { -1, std::vector<float>(llama_model_n_embd_inp(model.get())), { pos, y, x } };
        for (float & v : t.embd) {
            v = pick(1000) / 500.0f - 1.0f;
        }
        return t;
    }

    void decode_some() {
        // more or less of the sequences' next tokens, in any order
        batch_inputs tokens;
        std::vector<held> next(seqs, seqs + n_seq);
        const int  first = pick(n_seq), n_used = 1 + pick(n_seq), width = 1 + pick(9);
        const bool image = images && chance(40);
        llama_pos begin[n_seq]; // of what a sequence gets; where there are images, positions may be left out
        for (int s = 0; s < n_seq; ++s) {
            begin[s] = next[s].pos_max() + 1 + (images && chance(40) ? pick(9) : 0);
        }
        for (int n = chance(30) ? 1 : 1 + pick(80); n > 0; --n) {
            const int s = (first + pick(n_used)) % n_seq;
            if (next[s].size() < n_ctx_seq) {
                const int i = next[s].size() - seqs[s].size();
                tokens.inputs.push_back(image ? pixel_at(begin[s], begin[s] + i / width, begin[s] + i % width) : text_at(pick(64), begin[s] + i));
                tokens.seqs.push_back(s);
                next[s].tokens.push_back(tokens.inputs.back());
                next[s].events.push_back(n_events++);
                next[s].n_removed = std::max(0, next[s].n_removed - 1);
                write(next[s], next[s].size() - 1);
            }
        }
        if (tokens.seqs.empty()) {
            return;
        }
        n_images += image;
        abort_after = !image && chance(10) ? pick(200) : -1; // test-images aborts images
        note() << "decode " << tokens.seqs.size() << (image ? " tokens of images" : " tokens") << " of sequences from " << first << ", " << n_used
               << (abort_after >= 0 ? ", to abort" : "");
        input_batch inputs = tokens.batch();
        const llama_batch batch = inputs.get();
        const auto ubatches = split(ctx(), batch);
        const int status = llama_decode(ctx(), batch);
        const bool aborted = abort_after == -1 && status == 2;
        abort_after = -1;
        if (aborted) {
            take_aborted(ubatches, next);
        } else {
            CHECK_EQ(status, 0);
            std::copy(next.begin(), next.end(), seqs);
            for (int s = 0; s < n_seq; ++s) {
                for (int i = batch.n_tokens - 1; i >= 0 && status == 0; --i) {
                    if (tokens.seqs[i] == s) {
                        compare(s, llama_get_logits_ith(ctx(), i));
                        break;
                    }
                }
            }
        }
    }

    // Whole ubatches before the one that was aborted count; what that one stored is overwritten all the same. It leaves recurrent states undefined, its own
    // sequences' and those that it moved: they are emptied.
    void take_aborted(const std::vector<std::vector<std::pair<int, int>>> & ubatches, const std::vector<held> & next) {
        ++n_aborted;
        if (recurrent) {
            bool any_emptied = false;
            for (int s = 0; s < n_seq; ++s) {
                const int before = seqs[s].size(), n = next[s].n_before(llama_memory_seq_pos_max(mem(), s) + 1);
                CHECK(n == 0 || (n >= before && n <= next[s].size()));
                any_emptied = any_emptied || (n == 0 && next[s].size() > before);
                for (int p = before; p < n; ++p) {
                    seqs[s].tokens.push_back(next[s].tokens[p]);
                    seqs[s].events.push_back(next[s].events[p]);
                    write(seqs[s], p);
                }
                if (n == 0) {
                    seqs[s].truncate(0);
                }
            }
            CHECK(any_emptied);
            return;
        }
        for (const auto & ubatch : ubatches) {
            const bool kept = llama_memory_seq_pos_max(mem(), ubatch[0].first) >= ubatch[0].second;
            for (const auto & [s, pos] : ubatch) {
                CHECK_EQ(llama_memory_seq_pos_max(mem(), s) >= pos, kept);
                const int p = next[s].n_before(pos);
                write(seqs[s], p);
                if (kept) {
                    seqs[s].tokens.push_back(next[s].tokens[p]);
                    seqs[s].events.push_back(next[s].events[p]);
                }
            }
            if (!kept) {
                return;
            }
        }
        CHECK(false); // none was aborted
    }

    void compare(int s, const float * found) {
        reference & r = references[s];
        const auto & want = seqs[s].tokens;
        if (r.tokens.size() >= want.size() || !std::equal(r.tokens.begin(), r.tokens.end(), want.begin())) {
            llama_memory_clear(llama_get_memory(r.ctx.get()), true);
            r.tokens.clear();
        }
        std::vector<float> logits;
        CHECK_EQ(decode(r.ctx.get(), want, r.tokens.size(), want.size(), n_ctx_seq, false, logits), 0);
        r.tokens = want;
        const double e = relative(found, logits.data(), logits.size());
        check::report(e <= 1e-5, __FILE__, __LINE__, "logits of sequence " + std::to_string(s) + " at " + std::to_string(want.size()), "relative " + check::text(e));
        ++n_compared;
    }

    void decode_badly() {
        const int s = pick(n_seq);
        const llama_pos n = seqs[s].pos_max() + 1;
        std::vector<llama_pos> positions = { n };
        batch_inputs tokens;
        int seq = s;
        const int how = images ? pick(4) : 3 + pick(4);
        switch (how) {
            case 0: break;                                                         // an image out of order, below
            case 1: positions[0] = n == 0 ? -1 : pick(n); break;                   // repeated
            case 2:
            case 3:                                                                // beyond the context
                while (int(positions.size()) <= n_ctx_seq - seqs[s].size()) {
                    positions.push_back(n + int(positions.size()));
                }
                break;
            case 4: positions[0] = n + 1 + pick(5); break;                         // skipped
            case 5: positions.push_back(n + 2); break;                             // a gap
            case 6: positions[0] = n == 0 ? 3 : pick(n); break;                    // repeated
        }
        if (chance(20)) {
            positions = { n };
            seq = n_seq + pick(3);                                                 // no such sequence
        }
        for (const llama_pos p : positions) {
            tokens.inputs.push_back(text_at(1, p));
        }
        if (how == 0 && seq == s) {
            tokens.inputs = { pixel_at(n, n, n + 1), pixel_at(n, n, n + pick(2)) };
        }
        tokens.seqs.assign(tokens.inputs.size(), seq);
        note() << "decode badly, way " << how << ", from " << positions[0] << " of sequence " << seq << ", " << tokens.seqs.size() << " tokens";
        input_batch inputs = tokens.batch();
        const llama_batch batch = inputs.get();
        llama_seq_id both[] = { s, (s + 1) % n_seq };
        if (tokens.seqs.size() == 1 && seq == s && chance(20)) {
            batch.pos[0]      = n;
            batch.n_seq_id[0] = 2; // in two sequences
            batch.seq_id[0]   = both;
        }
        CHECK(llama_decode(ctx(), batch) != 0);
        ++n_refused;
    }

    // --- removing and copying ---

    void roll_back() {
        const int s = chance(5) && !(recurrent && llama_n_rs_seq(ctx()) > 0) ? -1 : pick(n_seq);
        const int n = s < 0 ? n_ctx_seq : seqs[s].pos_max() + 1;
        const int p0 = std::max(0, recurrent && chance(50) ? n - pick(5) : chance(60) ? n - pick(90) : pick(n + 2));
        const int p1 = chance(85) ? -1 : p0 + pick(n + 2 - std::min(n, p0));
        bool ok = true;
        for (int i = 0; i < n_seq; ++i) {
            const int from = seqs[i].n_before(p0), to = p1 < 0 ? seqs[i].size() : seqs[i].n_before(p1);
            const bool removes = (s < 0 || s == i) && from < to;
            ok = ok && (!removes || (to == seqs[i].size() && exact(seqs[i], from)));
            if (removes && p1 < 0 && !recurrent && seqs[i].n_removed + seqs[i].size() - from <= int(llama_n_rs_seq(ctx()))) {
                CHECK(exact(seqs[i], from)); // what is promised
            }
        }
        note() << "remove [" << p0 << ", " << p1 << ") of sequence " << s << (ok ? "" : ", to be refused");
        if (recurrent && !ok && s >= 0 && p0 < n && (p1 < 0 || p1 >= n) && seqs[s].size() - seqs[s].n_before(p0) <= int(llama_n_rs_seq(ctx()))) {
            ok = llama_memory_seq_rm(mem(), s, p0, p1); // what llama.cpp has of earlier states is its own affair: refused, or right
            CHECK(!ok || seen(seqs[s], seqs[s].n_before(p0)));
            n_back += ok;
        } else {
            CHECK_EQ(llama_memory_seq_rm(mem(), s, p0, p1), ok);
        }
        for (int i = 0; ok && i < n_seq; ++i) {
            if ((s < 0 || s == i) && (p1 < 0 || seqs[i].n_before(p0) < seqs[i].n_before(p1))) {
                seqs[i].truncate(seqs[i].n_before(p0));
            }
        }
        n_refused += !ok;
    }

    void remove_whole() {
        const int s = pick(n_seq);
        note() << "remove sequence " << s;
        CHECK(llama_memory_seq_rm(mem(), s, -1, -1));
        seqs[s].truncate(0);
    }

    void copy() {
        const int from = pick(n_seq), to = pick(n_seq);
        const bool part = chance(15) && seqs[from].size() > 1;
        note() << "copy " << (part ? "a part of " : "") << from << " to " << to;
        llama_memory_seq_cp(mem(), from, to, 0, part ? seqs[from].pos_max() : -1);
        if (from != to) {
            seqs[to] = part ? held() : seqs[from];
        }
    }

    void keep() {
        const int s = pick(n_seq);
        note() << "keep sequence " << s;
        llama_memory_seq_keep(mem(), s);
        for (int i = 0; i < n_seq; ++i) {
            if (i != s) {
                seqs[i].truncate(0);
            }
        }
    }

    void clear() {
        const bool data = pick(2);
        note() << "clear" << (data ? " the data, too" : "");
        llama_memory_clear(mem(), data);
        for (held & h : seqs) {
            h.truncate(0);
        }
    }

    // --- states ---

    struct saved_state {
        std::vector<uint8_t> bytes;
        llama_state_seq_flags flags;
        int  seq;
        held h;
    };

    // What a state has of a sequence: the tokens that the last n_back see, or as many of them as can be resumed now.
    held kept_by_state(held h, int n_back) const {
        int p = h.size();
        while (p > 0 && exact(h, p - 1)) {
            --p;
        }
        p = std::max({ p, h.size() - n_back, 0 });
        for (size_t i = 0; i < h.cells.size(); ++i) {
            for (int & cell : h.cells[i]) {
                cell = cell < p / rings[i].chunk * rings[i].chunk - rings[i].recent ? -1 : cell;
            }
        }
        return h;
    }

    void save() {
        const int s = pick(n_seq);
        saved_state state;
        state.flags = chance(70) ? LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY : LLAMA_STATE_SEQ_FLAGS_NONE;
        state.seq   = s;
        state.h     = kept_by_state(seqs[s], state.flags ? seqs[s].n_at_last() : int(llama_n_rs_seq(ctx())));
        state.bytes.resize(llama_state_seq_get_size_ext(ctx(), s, state.flags));
        CHECK_EQ(llama_state_seq_get_data_ext(ctx(), state.bytes.data(), state.bytes.size(), s, state.flags), state.bytes.size());
        note() << "save " << (state.flags ? "the rings of " : "") << s << " at " << state.h.size();
        if (saved.size() < 6) {
            saved.push_back(state);
        } else {
            saved[pick(6)] = state;
        }
    }

    void restore() {
        if (saved.empty()) {
            return;
        }
        const saved_state & state = saved[pick(int(saved.size()))];
        const int s = chance(50) ? state.seq : pick(n_seq);
        note() << "restore " << (state.flags ? "the rings of " : "") << state.h.size() << " to " << s;
        const bool ok = llama_state_seq_set_data_ext(ctx(), state.bytes.data(), state.bytes.size(), s, state.flags) == state.bytes.size();
        int n = state.h.size();
        bool possible = true;
        if (state.flags && n > 0) {
            // the other rows must be those of then, as far as the sequences share their decodings; no further can it go, and no less is right
            n = common_prefix(state.h, seqs[s]);
            possible = n > 0 && exact(state.h, n); // of a recurrent state: no less than all
            n_partly += possible && n < state.h.size();
        }
        CHECK_EQ(ok, possible);
        if (ok) {
            seqs[s] = state.h;
            seqs[s].truncate(n);
            CHECK_EQ(llama_memory_seq_pos_max(mem(), s), seqs[s].pos_max());
            if (state.flags) {
                seqs[s].n_removed = int(llama_n_rs_seq(ctx())); // a tail of what follows can be taken back, no more
            }
            ++n_restored;
        } else {
            ++n_refused;
        }
    }

    void restore_damaged() {
        if (saved.empty()) {
            return;
        }
        const saved_state & state = saved[pick(int(saved.size()))];
        const int s = pick(n_seq);
        const size_t n_head = 8 + (recurrent ? 32 : 0) + 64 + 16; // llama.cpp's own, the headers, and what the sequence holds: all that says what the rows are
        std::vector<uint8_t> bytes = state.bytes;
        if (chance(50)) {
            bytes.resize(chance(50) ? pick(int(bytes.size())) : std::min<size_t>(pick(n_head + 40), bytes.size() - 1));
            note() << "restore a state cut off at " << bytes.size();
        } else {
            size_t at = pick(n_head);
            at = at >= 4 && at < 8 ? 8 : at; // the id of the sequence it was, of which llama.cpp takes no notice
            bytes[at] ^= 1 << pick(8);
            note() << "restore a state with byte " << at << " changed";
        }
        CHECK_EQ(llama_state_seq_set_data_ext(ctx(), bytes.data(), bytes.size(), s, state.flags), 0u);
        ++n_refused;
    }

    // To the other context, which goes on.
    void move_all() {
        note() << "move all to the other context";
        std::vector<uint8_t> bytes(llama_state_get_size(ctx()));
        CHECK_EQ(llama_state_get_data(ctx(), bytes.data(), bytes.size()), bytes.size());
        current = !current;
        CHECK_EQ(llama_state_set_data(ctx(), bytes.data(), bytes.size()), bytes.size());
        for (held & h : seqs) {
            h = kept_by_state(h, int(llama_n_rs_seq(ctx())));
        }
    }

    struct reference {
        context_ptr ctx;
        std::vector<input> tokens;
    };

    std::mt19937_64   rng;
    llama_model_ptr_t model;
    bool              recurrent;
    bool              images; // positions are M-RoPE's
    context_ptr       contexts[2];
    int               current = 0;
    reference         references[n_seq];

    std::vector<ring_of_cells> rings;

    held seqs[n_seq];
    int  n_events = 0;
    int  abort_after = -1; // nodes of the graph
    std::vector<saved_state> saved;

    std::vector<std::ostringstream> trace;
};

void test_interleavings() {
    int n_compared = 0, n_refused = 0, n_aborted = 0, n_restored = 0, n_partly = 0, n_back = 0, n_images = 0, n_rounds = 0;
    // The rarest, a few in 48 rounds, may be missing from them: then more rounds, until it is seen or hardly can be.
    for (int round = 0; round < 48 || (n_partly == 0 && round < 300); ++round, ++n_rounds) {
        interleaving test(fresh_seed(), round);
        test.run(400);
        n_compared += test.n_compared;
        n_refused  += test.n_refused;
        n_aborted  += test.n_aborted;
        n_restored += test.n_restored;
        n_partly   += test.n_partly;
        n_back     += test.n_back;
        n_images   += test.n_images;
    }
    printf("%d random operations: %d logits compared, %d refusals, %d batches aborted, %d states restored, %d of them in part, %d recurrent states taken back, %d batches of images\n",
            400 * n_rounds, n_compared, n_refused, n_aborted, n_restored, n_partly, n_back, n_images);
    CHECK(n_back > 0 && n_images > 0);
    CHECK(n_compared > 0 && n_refused > 0 && n_aborted > 0 && n_restored > 0 && n_partly > 0);
}

} // namespace

int main() {
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    test_sequences();
    test_resume();
    test_states_of_other_sizes();
    test_forged_states();
    test_forged_cells();
    test_sizes_of_states();
    test_many_sequences();
    test_split();
    test_batch_of_sequences();
    test_interleavings();
    return check::result();
}
