// The mixed-head attention operator against float64 attention with an explicit mask over the same cached rows: test-attention [DEVICE] [--quick].
// On the CPU, which is the default, also that neither the batch split (but into single tokens) nor the thread count changes a bit.
// --quick takes a few small cases of every kernel, for tools that slow a program down a hundredfold.
#include "check.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml-cpu.h"
#include "ggml.h"
#include "mixed-attention.h"
#include "reference.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <vector>

namespace {

ggml_backend_t backend;
bool           on_cpu;

// A windowed head keeps every position and sees what a streaming head sees.
enum kind { retrieval, streaming, windowed };

struct shape {
    int64_t dk = 64, dv = 64;
    int64_t n_head = 6, n_head_kv = 2;
    std::vector<int> kinds = { retrieval, streaming }; // [n_head_kv]
    int32_t sink = 4, recent = 8, chunk = 1;
    std::vector<int32_t> recents;           // [n_head_kv], or none: recent
    bool sinks = false;                     // learned ones
    int32_t rotation_k = 0, rotation_v = 0;
    int32_t n_ubatch = 32;
    int32_t n_ctx = 512;
    int64_t n_stream = 1;
    ggml_type type_k = GGML_TYPE_F32, type_v = GGML_TYPE_F32;
    float softcap = 0.0f;

    int32_t recent_of(int64_t h) const { return recents.empty() ? recent : recents[h]; }
    int32_t ring(int64_t h = 0) const { return (sink + recent_of(h) + chunk + n_ubatch + 63) / 64 * 64 - sink; }
    int64_t n_cells(int64_t h) const { return kinds[h] == streaming ? sink + ring(h) : n_ctx; }
    int64_t n_rows() const {
        int64_t n = 0;
        for (int64_t h = 0; h < n_head_kv; ++h) {
            n += n_cells(h);
        }
        return n;
    }
    std::string name() const {
        std::string s = "D" + std::to_string(dk) + "/" + std::to_string(dv) + " H" + std::to_string(n_head) + "/" + std::to_string(n_head_kv) + " mask ";
        for (const int x : kinds) {
            s += char('0' + x);
        }
        return s + " sink " + std::to_string(sink) + " recent " + std::to_string(recent) + " chunk " + std::to_string(chunk) + " " +
                ggml_type_name(type_k) + "/" + ggml_type_name(type_v) + (sinks ? " learned sinks" : "") +
                (rotation_k || rotation_v ? " rotated by " + std::to_string(rotation_k) + "/" + std::to_string(rotation_v) : "");
    }
};

// Of the relative L2: f32 arithmetic on the rows as cached; tensor cores round to f16, where many queries come quantised rows as well, once more.
double bar(const shape & s) {
    return on_cpu ? 1e-5 : ggml_is_quantized(s.type_k) || ggml_is_quantized(s.type_v) ? 2e-3 : 1.5e-3;
}

// A token of a batch.
struct token {
    int32_t position;
    int32_t stream;
};

// The most that one stream has.
int32_t max_seq_tokens(const std::vector<token> & batch) {
    std::map<int32_t, int32_t> n;
    int32_t most = 0;
    for (const token & t : batch) {
        most = std::max(most, ++n[t.stream]);
    }
    return most;
}

// What a token brings: random rows, the same whenever the token is asked for.
std::vector<float> random_rows(int64_t n, uint64_t seed) {
    std::mt19937_64 rng(seed);
    std::normal_distribution<float> normal;
    std::vector<float> x(n);
    for (float & f : x) {
        f = normal(rng);
    }
    return x;
}

// A row as the cache returns it. Rotated in f32, sums in the order of a fast transform: a quant may lie between two.
std::vector<float> through(ggml_type type, const float * row, int64_t n, int32_t rotation) {
    std::vector<float> out(row, row + n);
    for (float & x : out) {
        x *= rotation > 0 ? 1.0f / std::sqrt(float(rotation)) : 1.0f;
    }
    for (int64_t apart = 1; apart < rotation; apart *= 2) {
        for (int64_t i = 0; i < n; ++i) {
            if ((i & apart) == 0) {
                const float a = out[i], b = out[i + apart];
                out[i] = a + b, out[i + apart] = a - b;
            }
        }
    }
    if (type == GGML_TYPE_F32) {
        return out;
    }
    std::vector<uint8_t> buf(ggml_row_size(type, n));
    ggml_get_type_traits_cpu(type)->from_float(out.data(), buf.data(), n);
    ggml_get_type_traits(type)->to_float(buf.data(), out.data(), n);
    return out;
}

class fixture {
public:
    fixture(const shape & s, uint64_t seed) : s(s), seed(seed) {
        ctx.reset(ggml_init({ 8 * ggml_tensor_overhead(), nullptr, /*.no_alloc =*/ true }));
        k_cache  = ggml_new_tensor_2d(ctx.get(), s.type_k, s.dk, s.n_rows() * s.n_stream);
        v_cache  = ggml_new_tensor_2d(ctx.get(), s.type_v, s.dv, s.n_rows() * s.n_stream);
        heads    = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_I32, 4, s.n_head_kv);
        sinks    = s.sinks ? ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, s.n_head) : nullptr;
        buffer.reset(ggml_backend_alloc_ctx_tensors(ctx.get(), backend));
        // all ones: NaN in every float type, and in every block's scale
        ggml_backend_tensor_memset(k_cache, 0xff, 0, ggml_nbytes(k_cache));
        ggml_backend_tensor_memset(v_cache, 0xff, 0, ggml_nbytes(v_cache));
        upload_heads();
        if (sinks) {
            ggml_backend_tensor_set(sinks, sink_scores().data(), 0, ggml_nbytes(sinks));
        }
    }

    // Also after the shape's kinds changed, among those that are stored alike.
    void upload_heads() {
        std::vector<ggml_mixed_attn_head> map(s.n_head_kv);
        int64_t row = 0;
        for (const bool streams : { false, true }) { // heads that keep everything first
            for (int64_t h = 0; h < s.n_head_kv; ++h) {
                if ((s.kinds[h] == streaming) == streams) {
                    map[h] = { int32_t(row), s.kinds[h] == retrieval ? GGML_MIXED_ATTN_ALL : s.recent_of(h), s.kinds[h] == streaming ? s.ring(h) : s.n_ctx, 0 };
                    row += s.n_cells(h);
                }
            }
        }
        ggml_backend_tensor_set(heads, map.data(), 0, map.size() * sizeof(map[0]));
    }

    std::vector<float> q_of(token t) const { return random_rows(s.dk * s.n_head,    seed + 3 * id(t)); }
    std::vector<float> k_of(token t) const { return random_rows(s.dk * s.n_head_kv, seed + 3 * id(t) + 1); }
    std::vector<float> v_of(token t) const { return random_rows(s.dv * s.n_head_kv, seed + 3 * id(t) + 2); }

    // Of each query head: some far above the scores, some far below.
    std::vector<float> sink_scores() const {
        std::vector<float> x = random_rows(s.n_head, seed + 77);
        for (size_t i = 0; i < x.size(); ++i) {
            x[i] *= i % 3 == 0 ? 20.0f : 1.0f;
        }
        return x;
    }

    // [n_tokens][n_head][dv]. stores: else the batch's keys and values are there already.
    // products: rotation by ggml's products with the matrices, before the operator and after it, instead of by the operator.
    std::vector<float> run(const std::vector<token> & batch, int n_threads, bool stores = true, bool products = false) {
        const int64_t n = batch.size();
        ggml_context_ptr c { ggml_init({ 32 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, /*.no_alloc =*/ true }) };
        ggml_tensor * q      = ggml_new_tensor_3d(c.get(), GGML_TYPE_F32, s.dk, s.n_head, n);
        ggml_tensor * k      = ggml_new_tensor_3d(c.get(), GGML_TYPE_F32, s.dk, s.n_head_kv, n);
        ggml_tensor * v      = ggml_new_tensor_3d(c.get(), GGML_TYPE_F32, s.dv, s.n_head_kv, n);
        ggml_tensor * tokens = ggml_new_tensor_2d(c.get(), GGML_TYPE_I32, 2, n);
        ggml_mixed_attn_params p = { scale(), s.softcap, s.sink, s.chunk, s.n_ctx, max_seq_tokens(batch), s.n_rows(), 0, 0, 0, s.rotation_k, s.rotation_v };
        ggml_tensor * rot_k = nullptr, * rot_v = nullptr;
        if (products) {
            p.rotation_k = p.rotation_v = 0;
            rot_k = s.rotation_k ? ggml_new_tensor_2d(c.get(), GGML_TYPE_F32, s.rotation_k, s.rotation_k) : nullptr;
            rot_v = s.rotation_v ? ggml_new_tensor_2d(c.get(), GGML_TYPE_F32, s.rotation_v, s.rotation_v) : nullptr;
        }
        const auto rotated = [&](ggml_tensor * t, ggml_tensor * matrix) {
            if (!t || !matrix) {
                return t;
            }
            ggml_tensor * product = ggml_mul_mat(c.get(), matrix, ggml_reshape_2d(c.get(), t, matrix->ne[0], ggml_nelements(t) / matrix->ne[0]));
            ggml_mul_mat_set_hint(product, GGML_HINT_SRC0_IS_HADAMARD);
            return ggml_reshape(c.get(), product, t);
        };
        ggml_tensor * out = rotated(ggml_mixed_attn(c.get(), rotated(q, rot_k), rotated(stores ? k : nullptr, rot_k), rotated(stores ? v : nullptr, rot_v),
                k_cache, v_cache, tokens, heads, sinks, p), rot_v);
        ggml_backend_buffer_ptr buf { ggml_backend_alloc_ctx_tensors(c.get(), backend) };
        auto put = [&](ggml_tensor * t, int64_t i, const std::vector<float> & x) { ggml_backend_tensor_set(t, x.data(), i * t->nb[2], x.size() * sizeof(float)); };
        for (int64_t i = 0; i < n; ++i) {
            put(q, i, q_of(batch[i]));
            put(k, i, k_of(batch[i]));
            put(v, i, v_of(batch[i]));
        }
        for (ggml_tensor * matrix : { rot_k, rot_v }) {
            if (matrix) {
                const int64_t side = matrix->ne[0];
                std::vector<float> x;
                for (int64_t i = 0; i < side; ++i) {
                    std::vector<float> unit(side);
                    unit[i] = 1.0f;
                    const std::vector<double> row = duo::reference_rotation(unit.data(), side, side);
                    x.insert(x.end(), row.begin(), row.end());
                }
                ggml_backend_tensor_set(matrix, x.data(), 0, x.size() * sizeof(float));
            }
        }
        ggml_backend_tensor_set(tokens, batch.data(), 0, n * sizeof(token));
        ggml_backend_tensor_memset(out, 0xff, 0, ggml_nbytes(out));

        ggml_cgraph * gf = ggml_new_graph(c.get());
        ggml_build_forward_expand(gf, out);
        if (on_cpu) {
            ggml_backend_cpu_set_n_threads(backend, n_threads);
        }
        CHECK(ggml_backend_graph_compute(backend, gf) == GGML_STATUS_SUCCESS);

        std::vector<float> result(ggml_nelements(out));
        ggml_backend_tensor_get(out, result.data(), 0, ggml_nbytes(out));
        return result;
    }

    // The worst relative L2 over the query heads of one token.
    double error(token t, const float * out) const {
        double worst = 0.0;
        const std::vector<float> q = q_of(t), scores = sink_scores();
        for (int64_t h = 0; h < s.n_head_kv; ++h) {
            std::vector<std::vector<float>> keys, values;
            std::vector<uint8_t> visible;
            for (int32_t j = 0; j <= t.position; ++j) {
                const std::vector<float> k = k_of({ j, t.stream }), v = v_of({ j, t.stream });
                keys.push_back(through(s.type_k, k.data() + h * s.dk, s.dk, s.rotation_k));
                values.push_back(through(s.type_v, v.data() + h * s.dv, s.dv, s.rotation_v));
                visible.push_back(s.kinds[h] == retrieval || j < s.sink || j >= t.position - t.position % s.chunk - s.recent_of(h));
            }
            const int64_t group = s.n_head / s.n_head_kv;
            for (int64_t i = h * group; i < (h + 1) * group; ++i) {
                const std::vector<double> rotated = duo::reference_rotation(q.data() + i * s.dk, s.dk, s.rotation_k);
                const std::vector<float>  query(rotated.begin(), rotated.end());
                std::vector<double> want = duo::reference_attention(query.data(), s.dk, keys, values, visible, scale(), s.softcap,
                        s.sinks ? scores[i] : -std::numeric_limits<double>::infinity());
                want = duo::reference_rotation(want.data(), s.dv, s.rotation_v);
                double diff = 0.0, norm = 0.0;
                for (int64_t d = 0; d < s.dv; ++d) {
                    const double x = out[i * s.dv + d] - want[d];
                    diff += x * x;
                    norm += want[d] * want[d];
                }
                const double e = std::sqrt(diff / norm);
                worst = e <= worst ? worst : e; // NaN is worst
            }
        }
        return worst;
    }

    const shape & s;
    ggml_tensor *k_cache, *v_cache, *heads, *sinks;

private:
    float scale() const { return 1.0f / std::sqrt(float(s.dk)); }
    static uint64_t id(token t) { return uint64_t(t.stream) << 32 | uint64_t(t.position); }

    const uint64_t          seed;
    ggml_context_ptr        ctx;
    ggml_backend_buffer_ptr buffer;
};

// Prefills n tokens of stream 0 in pieces.
std::vector<float> prefill(fixture & f, int32_t n, int32_t piece, int n_threads) {
    std::vector<float> all;
    for (int32_t p = 0; p < n; p += piece) {
        std::vector<token> batch;
        for (int32_t i = p; i < std::min(n, p + piece); ++i) {
            batch.push_back({ i, 0 });
        }
        const std::vector<float> out = f.run(batch, n_threads);
        all.insert(all.end(), out.begin(), out.end());
    }
    return all;
}

std::vector<uint8_t> rows_of(const ggml_tensor * cache) {
    std::vector<uint8_t> bytes(ggml_nbytes(cache));
    ggml_backend_tensor_get(cache, bytes.data(), 0, bytes.size());
    return bytes;
}

// relative L2
double difference(const std::vector<float> & a, const std::vector<float> & b) {
    double diff = 0.0, norm = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
        diff += double(a[i] - b[i]) * (a[i] - b[i]);
        norm += double(a[i]) * a[i];
    }
    return std::sqrt(diff / norm);
}

// The same results from batches of some other size: on the CPU to the bit, but for tokens that come alone, which are added up in another order.
void check_same(const shape & s, const std::vector<float> & want, const std::vector<float> & got, int32_t piece) {
    if (on_cpu && piece > 1) {
        CHECK(memcmp(want.data(), got.data(), got.size() * sizeof(float)) == 0);
    } else {
        CHECK(difference(want, got) < bar(s));
    }
}

constexpr ggml_type FAST_TYPES[] = { GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 }; // that have kernels of their own on a GPU

uint64_t fresh_seed() {
    static std::mt19937_64 rng(check::seed());
    return rng();
}

// Every token that a boundary makes interesting, and a few others.
std::vector<int32_t> probes(const shape & s, int32_t n) {
    std::vector<int32_t> out;
    for (const int32_t at : { 0, s.sink, s.recent, s.sink + s.recent, s.sink + s.ring(), s.sink + 2 * s.ring(), s.chunk, 2 * s.chunk, 64, 128, n - 2 }) {
        for (int32_t p = at - 1; p <= at + 1; ++p) {
            if (p >= 0 && p < n) {
                out.push_back(p);
            }
        }
    }
    std::sort(out.begin(), out.end());
    out.erase(std::unique(out.begin(), out.end()), out.end());
    return out;
}

// float64 agreement, for several ways to cut the prompt; and the same results from all of them.
void test_shape(const shape & s, int32_t n) {
    const uint64_t seed = fresh_seed();
    const int64_t  row  = s.n_head * s.dv;
    std::vector<float> first;
    double worst = 0.0;
    for (const int32_t piece : { s.n_ubatch, 7, 1 }) {
        std::vector<float> one_thread;
        for (const int n_threads : { 1, 3 }) {
            fixture f(s, seed);
            const std::vector<float> out = prefill(f, n, piece, n_threads);
            if (on_cpu && !one_thread.empty()) {
                CHECK(memcmp(one_thread.data(), out.data(), out.size() * sizeof(float)) == 0);
            }
            one_thread = out;
            if (first.empty() || piece == 1) {
                first = first.empty() ? out : first;
                for (const int32_t p : probes(s, n)) {
                    const double e = f.error({ p, 0 }, out.data() + p * row);
                    worst = e <= worst ? worst : e;
                }
            }
            check_same(s, first, out, piece);
        }
    }
    printf("%-72s seed %016llx  error %.2e\n", s.name().c_str(), (unsigned long long) seed, worst);
    CHECK(worst < bar(s));
}

void test_shapes() {
    for (const auto & [type_k, type_v] : std::vector<std::pair<ggml_type, ggml_type>> {
            { GGML_TYPE_F32, GGML_TYPE_F32 }, { GGML_TYPE_F16, GGML_TYPE_F16 }, { GGML_TYPE_Q8_0, GGML_TYPE_Q8_0 }, { GGML_TYPE_Q4_0, GGML_TYPE_Q4_0 },
            { GGML_TYPE_Q8_0, GGML_TYPE_F16 }, { GGML_TYPE_BF16, GGML_TYPE_Q5_1 }, { GGML_TYPE_IQ4_NL, GGML_TYPE_IQ4_NL }, { GGML_TYPE_Q4_1, GGML_TYPE_Q5_0 },
            { GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 }, { GGML_TYPE_F16, GGML_TYPE_Q8_0 }, { GGML_TYPE_F16, GGML_TYPE_Q4_0 }, { GGML_TYPE_Q5_1, GGML_TYPE_Q4_1 },
            { GGML_TYPE_Q5_0, GGML_TYPE_Q5_0 } }) {
        shape s;
        s.type_k = type_k;
        s.type_v = type_v;
        test_shape(s, 300);
    }
    // groups, and layers with one kind of head only
    for (const int group : { 1, 2, 3, 4, 7, 8, 16 }) {
        shape s;
        s.n_head_kv = 3;
        s.n_head = 3 * group;
        s.kinds = { 1, 0, 1 };
        test_shape(s, 150);
    }
    for (const int kind : { 0, 1, 2 }) {
        shape s;
        s.kinds = { kind, kind };
        test_shape(s, 200);
    }
    // head sizes, K and V alike or not
    for (const int d : { 8, 24, 40, 80, 96, 128, 192, 256, 512 }) {
        shape s;
        s.dk = d;
        s.dv = d;
        test_shape(s, 150);
    }
    // the largest in the types and groups that models have
    for (const auto & [type_k, type_v, group] : std::vector<std::tuple<ggml_type, ggml_type, int>> {
            { GGML_TYPE_F16, GGML_TYPE_F16, 4 }, { GGML_TYPE_BF16, GGML_TYPE_BF16, 8 }, { GGML_TYPE_Q8_0, GGML_TYPE_Q8_0, 16 }, { GGML_TYPE_Q4_0, GGML_TYPE_Q4_0, 4 },
            { GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, 8 } }) {
        shape s;
        s.dk = s.dv = 512;
        s.n_head = 2 * group;
        s.type_k = type_k;
        s.type_v = type_v;
        test_shape(s, 100);
    }
    shape differ;
    differ.dk = 96;
    differ.dv = 64;
    differ.softcap = 5.0f;
    test_shape(differ, 150);

    // learned sinks
    for (const int group : { 1, 3, 8 }) {
        shape s;
        s.n_head_kv = 3;
        s.n_head = 3 * group;
        s.kinds = { streaming, retrieval, windowed };
        s.sinks = true;
        s.softcap = group == 3 ? 5.0f : 0.0f;
        test_shape(s, 300);
    }
    // windows that differ by head
    shape by_head;
    by_head.n_head = 8;
    by_head.n_head_kv = 4;
    by_head.kinds = { streaming, retrieval, streaming, windowed };
    by_head.recents = { 8, 8, 150, 60 };
    test_shape(by_head, 500);

    // windows: no sinks, no recent tokens, sinks that reach into the window, chunks, a window longer than a block
    for (const auto & [sink, recent, chunk] : std::vector<std::array<int32_t, 3>> {
            { 0, 8, 1 }, { 4, 0, 1 }, { 0, 0, 1 }, { 40, 8, 1 }, { 64, 64, 1 }, { 5, 11, 7 }, { 4, 0, 16 }, { 3, 100, 33 }, { 1, 1, 1 }, { 130, 70, 64 } }) {
        shape s;
        s.sink = sink;
        s.recent = recent;
        s.chunk = chunk;
        s.n_head = 9;
        s.n_head_kv = 3;
        s.kinds = { 0, 1, 2 };
        test_shape(s, 500);
    }
}

// A head that becomes windowed sees the window of what it stored as a retrieval head, and back again it sees everything: both keep the same cells.
// A ring in its place would agree with itself, but not with the rows stored before.
void test_windowed(ggml_type type, int32_t n) {
    shape s;
    s.type_k = s.type_v = type;
    s.kinds = { retrieval, streaming };
    const uint64_t seed = fresh_seed();
    fixture f(s, seed);
    int32_t next = 0;
    double worst = 0.0;
    // long and short batches: kernels for many queries and for few
    const auto run_pieces = [&](int kind, const std::vector<int32_t> & pieces) {
        s.kinds[0] = kind;
        f.upload_heads();
        for (const int32_t piece : pieces) {
            std::vector<token> batch;
            for (int32_t i = 0; i < piece; ++i) {
                batch.push_back({ next + i, 0 });
            }
            const std::vector<float> out = f.run(batch, 2);
            for (const int32_t i : { 0, piece - 1 }) {
                const double e = f.error(batch[i], out.data() + i * s.n_head * s.dv);
                worst = e <= worst ? worst : e;
            }
            next += piece;
        }
    };
    run_pieces(retrieval, std::vector<int32_t>(n / s.n_ubatch, s.n_ubatch));
    CHECK(next > s.sink + 2 * s.ring());
    for (const int kind : { windowed, retrieval }) {
        run_pieces(kind, { s.n_ubatch, 1, 3, s.n_ubatch });
    }
    printf("%-8s windowed and back: seed %016llx  error %.2e\n", ggml_type_name(type), (unsigned long long) seed, worst);
    CHECK(worst < bar(s));
}

// A layer that attends to what another stored.
void test_stored(ggml_type type) {
    shape s;
    s.type_k = s.type_v = type;
    fixture f(s, fresh_seed());
    double worst = 0.0;
    int32_t next = 0;
    for (const int32_t piece : { 32, 32, 32, 32, 1, 3 }) {
        std::vector<token> batch;
        for (int32_t i = 0; i < piece; ++i) {
            batch.push_back({ next++, 0 });
        }
        const std::vector<float> want = f.run(batch, 2), got = f.run(batch, 2, false);
        CHECK(memcmp(want.data(), got.data(), got.size() * sizeof(float)) == 0);
        const double e = f.error(batch.back(), got.data() + (piece - 1) * s.n_head * s.dv);
        worst = e <= worst ? worst : e;
    }
    printf("%-8s stored before: error %.2e\n", ggml_type_name(type), worst);
    CHECK(worst < bar(s));
}

// Rotated rows: the operator's own rotation against float64 and against ggml's products with the matrices, with which it shares every bit on the CPU.
void test_rotated() {
    for (const auto & [type_k, type_v, dk, dv, group] : std::vector<std::tuple<ggml_type, ggml_type, int, int, int>> {
            { GGML_TYPE_Q8_0, GGML_TYPE_Q8_0, 128, 128, 4 }, { GGML_TYPE_Q4_0, GGML_TYPE_Q4_0, 128, 128, 4 }, { GGML_TYPE_Q4_0, GGML_TYPE_Q4_0, 64, 64, 3 },
            { GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, 192, 192, 1 }, { GGML_TYPE_Q4_0, GGML_TYPE_Q4_0, 256, 256, 8 }, { GGML_TYPE_Q8_0, GGML_TYPE_Q8_0, 512, 512, 16 },
            { GGML_TYPE_F16, GGML_TYPE_Q8_0, 128, 128, 4 }, { GGML_TYPE_Q5_1, GGML_TYPE_F16, 128, 128, 2 }, { GGML_TYPE_F32, GGML_TYPE_IQ4_NL, 64, 64, 2 },
            { GGML_TYPE_Q5_0, GGML_TYPE_Q4_1, 192, 128, 4 }, { GGML_TYPE_IQ4_NL, GGML_TYPE_Q5_0, 512, 64, 1 } }) {
        shape s;
        s.type_k    = type_k;
        s.type_v    = type_v;
        s.dk        = dk;
        s.dv        = dv;
        s.n_head_kv = 3;
        s.n_head    = 3 * group;
        s.kinds     = { retrieval, streaming, windowed };
        s.sinks     = group == 3;
        s.n_stream  = 2;
        if (ggml_is_quantized(type_k)) { // as llama.cpp chooses: K's is the largest that divides the head
            s.rotation_k = dk & -dk;
        }
        if (ggml_is_quantized(type_v)) {
            s.rotation_v = 64;
        }
        const uint64_t seed = fresh_seed();
        fixture own(s, seed), products(s, seed);
        std::vector<int32_t> next(s.n_stream, 0);
        double worst = 0.0, apart = 0.0;
        const auto step = [&](std::vector<int32_t> n_tokens, bool stores = true) { // of each stream
            std::vector<token> batch;
            for (int32_t stream = 0; stream < s.n_stream; ++stream) {
                for (int32_t i = 0; i < n_tokens[stream]; ++i) {
                    batch.push_back({ next[stream] - (stores ? 0 : n_tokens[stream]) + i, stream });
                }
                next[stream] += stores ? n_tokens[stream] : 0;
            }
            const std::vector<float> got = own.run(batch, 3, stores), want = products.run(batch, 2, stores, true);
            if (on_cpu) {
                CHECK(memcmp(want.data(), got.data(), got.size() * sizeof(float)) == 0);
            }
            apart = std::max(apart, difference(want, got));
            for (const size_t i : { size_t(0), batch.size() - 1 }) {
                const double e = own.error(batch[i], got.data() + i * s.n_head * s.dv);
                worst = e <= worst ? worst : e;
            }
        };
        step({ 1, 0 });
        step({ 1, 1 });
        for (int i = 0; i < 4; ++i) {
            step({ 32, 5 });
            step({ 1, 1 });
        }
        step({ 1, 32 });
        step({ 7, 2 });
        step({ 3, 0 });
        step({ 3, 0 }, false);
        step({ 0, 1 });
        step({ 0, 1 }, false);
        printf("%-72s seed %016llx  error %.2e, %.2e from products\n", s.name().c_str(), (unsigned long long) seed, worst, apart);
        CHECK(worst < bar(s));
        CHECK(apart < 2 * bar(s));
        CHECK(rows_of(own.k_cache) == rows_of(products.k_cache) && rows_of(own.v_cache) == rows_of(products.v_cache));
    }
}

// Several sequences in one batch, interleaved, at different positions.
void test_streams(int n_steps) {
    shape s;
    s.n_stream = 4;
    s.type_k = s.type_v = GGML_TYPE_F16;
    fixture f(s, fresh_seed());
    std::mt19937 rng(1);
    std::vector<int32_t> next(s.n_stream, 0);
    double worst = 0.0;
    for (int step = 0; step < n_steps; ++step) {
        std::vector<token> batch;
        for (int i = 0; i < 20; ++i) {
            const int32_t stream = step % 2 ? int32_t(rng() % s.n_stream) : i / 5; // mixed up, or in runs
            batch.push_back({ next[stream]++, stream });
        }
        const std::vector<float> out = f.run(batch, 2);
        for (size_t i = 0; i < batch.size(); ++i) {
            const double e = f.error(batch[i], out.data() + i * s.n_head * s.dv);
            worst = e <= worst ? worst : e;
        }
    }
    printf("4 sequences: error %.2e\n", worst);
    CHECK(worst < bar(s));
}

// Sequences of very unlike lengths that decode together, and ubatches in which one prefills meanwhile: each token's result is what it is alone. On the CPU
// to the bit where kernels for single tokens take both, or those for several.
void test_together(ggml_type type, int64_t d, int group) {
    shape s;
    s.n_stream  = 5;
    s.type_k    = s.type_v = type;
    s.dk        = s.dv = d;
    s.n_head_kv = 3;
    s.n_head    = 3 * group;
    s.kinds     = { 0, 1, 2 };
    s.n_ubatch  = 100; // the ring goes round, and yet takes all tokens of a batch
    const uint64_t seed = fresh_seed();
    const int64_t  row  = s.n_head * s.dv;
    fixture together(s, seed), alone(s, seed);
    std::vector<int32_t> next(s.n_stream, 0);
    double worst = 0.0, apart = 0.0;
    const auto step = [&](const std::vector<int32_t> & n_tokens) { // of each stream
        std::vector<token> batch;
        for (int32_t stream = 0; stream < s.n_stream; ++stream) {
            for (int32_t i = 0; i < n_tokens[stream]; ++i) {
                batch.push_back({ next[stream] + i, stream });
            }
        }
        const bool decode = max_seq_tokens(batch) == 1;
        const std::vector<float> out = together.run(batch, 3);
        for (size_t i = 0; i < batch.size(); ++i) {
            const double e = together.error(batch[i], out.data() + i * row);
            worst = e <= worst ? worst : e;
        }
        for (size_t begin = 0, end; begin < batch.size(); begin = end) {
            for (end = begin; end < batch.size() && batch[end].stream == batch[begin].stream; ++end) {
            }
            const std::vector<float> one = alone.run({ batch.begin() + begin, batch.begin() + end }, 2);
            const std::vector<float> same(out.begin() + begin * row, out.begin() + end * row);
            if (on_cpu && (decode || end - begin > 1)) {
                CHECK(memcmp(one.data(), same.data(), one.size() * sizeof(float)) == 0);
            } else {
                apart = std::max(apart, difference(one, same));
            }
        }
        for (int32_t stream = 0; stream < s.n_stream; ++stream) {
            next[stream] += n_tokens[stream];
        }
    };
    for (const int32_t n : { 40, 48, 48, 48 }) {
        step({ n, n / 2, 1, 0, n / 7 });
    }
    for (int i = 0; i < 3; ++i) {
        step({ 1, 1, 1, 1, 1 });
    }
    step({ 1, 1, 0, 1, 40 });
    step({ 1, 44, 1, 1, 1 });
    step({ 2, 2, 2, 2, 2 });
    step({ 1, 0, 1, 1, 0 });
    printf("%-72s together: error %.2e, apart %.2e\n", s.name().c_str(), worst, apart);
    CHECK(worst < bar(s));
    CHECK(apart < 2 * bar(s));
}

void test_together() {
    for (const ggml_type type : FAST_TYPES) {
        test_together(type, 64, 4);
    }
    test_together(GGML_TYPE_F16,  128, 8);
    test_together(GGML_TYPE_Q4_0, 128, 1);
    test_together(GGML_TYPE_F32,  64,  2);
    test_together(GGML_TYPE_Q5_1, 32,  3);
}

// Positions of many segments (1024), where decoding shares segments among threads.
void test_long() {
    shape s;
    s.n_head = 2;
    s.dk = s.dv = 16;
    s.n_ctx = 10240;
    s.n_ubatch = 512;
    const int32_t n = 9001;
    const uint64_t seed = fresh_seed();

    fixture a(s, seed);
    const std::vector<float> want = prefill(a, n, 512, 2);
    double worst = 0.0;
    for (const int32_t p : { 1023, 1024, 1025, 4095, 4096, 4097, 8191, 8192, 9000 }) {
        const double e = a.error({ p, 0 }, want.data() + p * s.n_head * s.dv);
        worst = e <= worst ? worst : e;
    }
    printf("9001 positions: error %.2e\n", worst);
    CHECK(worst < bar(s));

    // the last tokens one by one, and as one short batch
    for (const int n_threads : { 1, 2, 5 }) {
        fixture b(s, seed);
        prefill(b, n - 10, 512, 2);
        for (const int piece : { 1, 10 }) {
            for (int32_t p = n - 10; p < n; p += piece) {
                std::vector<token> batch;
                for (int32_t i = p; i < p + piece; ++i) {
                    batch.push_back({ i, 0 });
                }
                const std::vector<float> out = b.run(batch, n_threads);
                const float * same = want.data() + p * s.n_head * s.dv;
                check_same(s, std::vector<float>(same, same + out.size()), out, piece);
            }
        }
    }
}

// A million equal scores: the mean of all values. A single f32 chain would lose a percent here.
void test_flat() {
    shape s;
    s.dk = s.dv = 8;
    s.n_head = s.n_head_kv = 1;
    s.kinds = { 0 };
    s.n_ctx = 1 << 20;
    fixture f(s, fresh_seed());

    const int64_t n = s.n_ctx - 1; // the last cell is the token's own
    std::mt19937 rng(7);
    std::uniform_real_distribution<float> uniform(0.5f, 1.5f);
    const token last { int32_t(n), 0 };
    const std::vector<float> k = f.k_of(last), v = f.v_of(last);
    std::vector<float> keys(n * s.dk), values(n * s.dv);
    std::vector<double> sum(s.dv, 0.0);
    for (int64_t j = 0; j < n; ++j) {
        std::copy(k.begin(), k.end(), keys.begin() + j * s.dk);
        for (int64_t d = 0; d < s.dv; ++d) {
            values[j * s.dv + d] = uniform(rng);
            sum[d] += values[j * s.dv + d];
        }
    }
    ggml_backend_tensor_set(f.k_cache, keys.data(), 0, keys.size() * sizeof(float));
    ggml_backend_tensor_set(f.v_cache, values.data(), 0, values.size() * sizeof(float));
    const std::vector<float> out = f.run({ last }, 2);
    double worst = 0.0;
    for (int64_t d = 0; d < s.dv; ++d) {
        const double want = (sum[d] + v[d]) / double(s.n_ctx);
        worst = std::max(worst, std::abs(out[d] - want) / std::abs(want));
    }
    printf("flat attention over %d cells: error %.2e\n", s.n_ctx, worst);
    CHECK(worst < 1e-4);
}

// Every type with kernels of its own and one without, types that share one, all kinds of heads, both widths of query tiles, a head size for each layout of tiles.
void test_quick() {
    for (const ggml_type type : { GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, GGML_TYPE_F32 }) {
        test_windowed(type, 192);
    }
    for (const auto & [type_k, type_v, d, group] : std::vector<std::tuple<ggml_type, ggml_type, int, int>> {
            { GGML_TYPE_F16, GGML_TYPE_F16, 128, 4 }, { GGML_TYPE_F16, GGML_TYPE_F16, 80, 12 }, { GGML_TYPE_BF16, GGML_TYPE_BF16, 128, 1 },
            { GGML_TYPE_Q8_0, GGML_TYPE_Q8_0, 128, 4 }, { GGML_TYPE_Q4_0, GGML_TYPE_Q4_0, 128, 12 }, { GGML_TYPE_F16, GGML_TYPE_F16, 256, 4 },
            { GGML_TYPE_Q4_0, GGML_TYPE_Q4_0, 256, 4 }, { GGML_TYPE_F16, GGML_TYPE_F16, 512, 4 }, { GGML_TYPE_Q8_0, GGML_TYPE_Q8_0, 512, 12 },
            { GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, 128, 4 }, { GGML_TYPE_F16, GGML_TYPE_Q8_0, 128, 4 }, { GGML_TYPE_Q5_1, GGML_TYPE_IQ4_NL, 64, 4 } }) {
        shape s;
        s.type_k = type_k;
        s.type_v = type_v;
        s.dk = s.dv = d;
        s.n_head_kv = 3;
        s.n_head = 3 * group;
        s.kinds = { 0, 1, 2 };
        s.chunk = 3;
        fixture f(s, fresh_seed());
        int32_t next = 0;
        double worst = 0.0;
        for (const int32_t piece : { 32, 32, 32, 32, 32, 1, 2 }) {
            std::vector<token> batch;
            for (int32_t i = 0; i < piece; ++i) {
                batch.push_back({ next++, 0 });
            }
            const std::vector<float> out = f.run(batch, 2);
            const double e = f.error(batch.back(), out.data() + (piece - 1) * s.n_head * s.dv);
            worst = e <= worst ? worst : e;
        }
        printf("%-72s error %.2e\n", s.name().c_str(), worst);
        CHECK(worst < bar(s));
    }
    test_rotated();
    test_streams(2);
    test_together(GGML_TYPE_Q8_0, 64, 4);
}

} // namespace

int main(int argc, char ** argv) {
    ggml_backend_load_all();
    bool quick = false;
    const char * device = "CPU";
    for (int i = 1; i < argc; ++i) {
        if (strcmp(argv[i], "--quick") == 0) {
            quick = true;
        } else {
            device = argv[i];
        }
    }
    ggml_backend_dev_t dev = ggml_backend_dev_by_name(device);
    if (!dev) {
        printf("there is no device %s\n", device);
        return 2;
    }
    backend = ggml_backend_dev_init(dev, nullptr);
    on_cpu  = ggml_backend_dev_type(dev) == GGML_BACKEND_DEVICE_TYPE_CPU;
    if (quick) {
        test_quick();
        return check::result();
    }
    test_shapes();
    for (const ggml_type type : FAST_TYPES) {
        test_windowed(type, 300);
    }
    test_windowed(GGML_TYPE_F32, 300);
    test_stored(GGML_TYPE_F32);
    test_stored(GGML_TYPE_Q8_0);
    test_rotated();
    test_streams(40);
    test_together();
    test_long();
    test_flat();
    return check::result();
}
