// Checks and times the CUDA kernels of cpp/attention/cuda on their own: no model, no ggml.
//
//   cuda-attention check [quick] [NAME]  every kernel against float64 over explicit masks; fails with exit code 1; NAME selects cases by substring
//   cuda-attention store             the cache writer against the scalar rule of ggml's quantize_row_*_ref
//   cuda-attention rotate            times of a layer's steps with rotated rows: rotation by launches of its own, by the operator's, and none
//   cuda-attention time [NAME...]    times, of the Llama-3-8B shape where the name says no other; NAME selects cases by substring
//   cuda-attention json FILE         as time, and writes the rows to FILE, with $COMMIT
//   cuda-attention one CASE...       single cases, each type[:type of V],head size,query heads,KV heads,position,tokens: for sanitizers
//
// SEED=... repeats a run's random inputs. SHARED_KB=99 is as on a card whose blocks have no more shared memory.
//
// Built by bench/cuda-attention.sh.

#include "../cpp/attention/cuda/device.h"
#include "../cpp/attention/cuda/mixed-attention-cuda.h"
#include "../cpp/attention/cuda/ptx.cuh"
#include "../cpp/attention/cuda/rotation.cuh"
#include "../cpp/attention/visibility.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <list>
#include <random>
#include <string>
#include <vector>

using namespace duo::cuda;

#define CHECK(call)                                                                                                   \
    do {                                                                                                              \
        const cudaError_t error_ = (call);                                                                            \
        if (error_ != cudaSuccess) {                                                                                  \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_));                \
            exit(2);                                                                                                  \
        }                                                                                                             \
    } while (0)

template <typename T>
struct Buffer {
    T *    data = nullptr;
    size_t n    = 0;
    explicit Buffer(size_t n_) : n(n_) { CHECK(cudaMalloc(&data, std::max<size_t>(n, 1) * sizeof(T))); }
    Buffer(const std::vector<T> & host) : Buffer(host.size()) { CHECK(cudaMemcpy(data, host.data(), n * sizeof(T), cudaMemcpyHostToDevice)); }
    Buffer(const Buffer &) = delete;
    ~Buffer() { cudaFree(data); }
    void fill_bytes(int byte) { CHECK(cudaMemset(data, byte, n * sizeof(T))); }
    std::vector<T> host() const {
        std::vector<T> out(n);
        CHECK(cudaMemcpy(out.data(), data, n * sizeof(T), cudaMemcpyDeviceToHost));
        return out;
    }
};

static const char * type_name(CacheType type) {
    static const char * const names[] = { "f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl" };
    return names[int(type)];
}

static bool is_block_type(CacheType type) { return type != CacheType::f32 && type != CacheType::f16 && type != CacheType::bf16; }

// Rows rotated, rounded as ggml rounds: the sums of a fast transform.
template <typename T>
static std::vector<T> rotated_rows(std::vector<T> x, int rotation) {
    for (T & value : x) {
        value *= rotation > 0 ? T(1.0f / std::sqrt(float(rotation))) : T(1);
    }
    for (int apart = 1; apart < rotation; apart *= 2) {
        for (size_t i = 0; i < x.size(); ++i) {
            if ((i & apart) == 0) {
                const T a = x[i], b = x[i + apart];
                x[i] = a + b, x[i + apart] = a - b;
            }
        }
    }
    return x;
}

static int multiprocessors() {
    int id = 0, n = 0;
    CHECK(cudaGetDevice(&id));
    CHECK(cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, id));
    return n;
}

// ---- Random cache rows ----------------------------------------------------------------------------------------------------------------

static __host__ __device__ uint64_t mix(uint64_t x) { // splitmix64
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static __device__ float uniform(uint64_t seed, uint64_t i) { return float(mix(seed ^ mix(i)) >> 40) / float(1 << 24); } // [0, 1)

static __device__ float normal(uint64_t seed, uint64_t i) {
    return sqrtf(-2.0f * logf(1.0f - uniform(seed, 2 * i))) * cospif(2.0f * uniform(seed, 2 * i + 1));
}

// A random row of about unit variance, in the cache's own format.
static __device__ void random_row(CacheType type, uint8_t * row, int size, uint64_t seed) {
    if (type == CacheType::f32 || type == CacheType::f16 || type == CacheType::bf16) {
        for (int i = 0; i < size; ++i) {
            const float x = normal(seed, i);
            if (type == CacheType::f32)       reinterpret_cast<float *>(row)[i] = x;
            else if (type == CacheType::f16)  reinterpret_cast<__half *>(row)[i] = __float2half(x);
            else                              reinterpret_cast<__nv_bfloat16 *>(row)[i] = __float2bfloat16(x);
        }
        return;
    }
    const int bytes = type == CacheType::q8_0 ? 34 : type == CacheType::q4_0 || type == CacheType::iq4_nl ? 18 : type == CacheType::q4_1 ? 20 : type == CacheType::q5_0 ? 22 : 24;
    const float step = type == CacheType::q8_0 || type == CacheType::iq4_nl ? 1.0f / 73 : type == CacheType::q4_0 || type == CacheType::q4_1 ? 1.0f / 4.6f : 1.0f / 9.2f;
    for (int b = 0; b < size / 32; ++b) {
        for (int i = 2; i < bytes; ++i) {
            row[b * bytes + i] = uint8_t(mix(seed ^ mix(1000 + b * bytes + i)));
        }
        *reinterpret_cast<__half *>(row + b * bytes) = __float2half(step * (0.5f + uniform(seed, b)));
        if (type == CacheType::q4_1 || type == CacheType::q5_1) {
            *reinterpret_cast<__half *>(row + b * bytes + 2) = __float2half(-1.6f * (0.9f + 0.2f * uniform(seed, 100 + b)));
        }
    }
}

// ggml's kvalues_iq4nl
__constant__ int8_t iq4_nl_levels[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };

// The reader of the reference: written apart from the kernels' own.
static __device__ double cached_value(CacheType type, const uint8_t * row, int i) {
    const int b = i / 32, j = i % 32, lo = j & 15, shift = j < 16 ? 0 : 4;
    const auto h = [](const uint8_t * p) { return double(__half2float(*reinterpret_cast<const __half *>(p))); };
    switch (type) {
        case CacheType::f32:  return reinterpret_cast<const float *>(row)[i];
        case CacheType::f16:  return __half2float(reinterpret_cast<const __half *>(row)[i]);
        case CacheType::bf16: return __bfloat162float(reinterpret_cast<const __nv_bfloat16 *>(row)[i]);
        case CacheType::q8_0: row += b * 34; return h(row) * double(reinterpret_cast<const int8_t *>(row + 2)[j]);
        case CacheType::iq4_nl: row += b * 18; return h(row) * double(iq4_nl_levels[(row[2 + lo] >> shift) & 15]);
        case CacheType::q4_0: row += b * 18; return h(row) * double(((row[2 + lo] >> shift) & 15) - 8);
        case CacheType::q4_1: row += b * 20; return h(row) * double((row[4 + lo] >> shift) & 15) + h(row + 2);
        case CacheType::q5_0: {
            row += b * 22;
            const uint32_t high = row[2] | row[3] << 8 | row[4] << 16 | uint32_t(row[5]) << 24;
            return h(row) * double(int(((row[6 + lo] >> shift) & 15) | ((high >> j & 1) << 4)) - 16);
        }
        case CacheType::q5_1: {
            row += b * 24;
            const uint32_t high = row[4] | row[5] << 8 | row[6] << 16 | uint32_t(row[7]) << 24;
            return h(row) * double(((row[8 + lo] >> shift) & 15) | ((high >> j & 1) << 4)) + h(row + 2);
        }
    }
    return 0;
}

struct Cache {
    uint8_t * k, * v;
    CacheType type_k, type_v;
    int       size_k, size_v;
    int64_t   k_row, v_row; // bytes
};

// Random rows where position j of the token's stream is visible to it, for all heads. flat: see Case.
static __global__ void fill_visible(Cache cache, Layout layout, int token, uint64_t seed) {
    const int64_t j = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const int head = blockIdx.y;
    const int64_t p = layout.tokens[2 * token], stream = layout.tokens[2 * token + 1];
    const Head what = layout.heads[head];
    if (j > p || (j >= layout.sink && j < duo_window_begin(p, what.recent, layout.chunk))) {
        return;
    }
    const int64_t row = stream * layout.n_rows + what.first_row + duo_ring_cell(j, layout.sink, what.ring);
    const uint64_t s = mix(seed ^ mix(uint64_t(stream) << 48 ^ uint64_t(head) << 40 ^ uint64_t(j)));
    random_row(cache.type_k, cache.k + row * cache.k_row, cache.size_k, s);
    random_row(cache.type_v, cache.v + row * cache.v_row, cache.size_v, ~s);
}

// Random rows everywhere, fast: for timing.
static __global__ void fill_all(Cache cache, int64_t n_rows, uint64_t seed) {
    const int64_t row = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (row < n_rows) {
        random_row(cache.type_k, cache.k + row * cache.k_row, cache.size_k, mix(seed + row % 65536));
        random_row(cache.type_v, cache.v + row * cache.v_row, cache.size_v, ~mix(seed + row % 65536));
    }
}

static __global__ void fill_normal(float * x, int64_t n, float scale, uint64_t seed) {
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += int64_t(gridDim.x) * blockDim.x) {
        x[i] = scale * normal(seed, i);
    }
}

// ---- The truth: float64, explicit mask, two passes --------------------------------------------------------------------------------------

struct Reference {
    double * scores;  // [n_head][n_keys], -inf where masked
    double * maximum; // [n_head]
    double * sum;     // [n_head]
    double * out;     // [n_head][size_v]
    int64_t  n_keys;
};

static __device__ const uint8_t * reference_row(const uint8_t * base, int64_t row_bytes, const Layout & layout, int token, int head, int64_t j) {
    const Head what = layout.heads[head];
    const int64_t cell = j >= layout.sink ? layout.sink + (j - layout.sink) % what.ring : j;
    return base + (int64_t(layout.tokens[2 * token + 1]) * layout.n_rows + what.first_row + cell) * row_bytes;
}

static __global__ void reference_scores(AttentionParams p, Cache cache, Reference ref, int token) {
    const int64_t j = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (j >= ref.n_keys) {
        return;
    }
    const int head = blockIdx.y, head_kv = head / (p.n_head / p.layout.n_head_kv);
    const int64_t position = p.layout.tokens[2 * token];
    const int64_t window = position - position % p.layout.chunk - p.layout.heads[head_kv].recent;
    const bool visible = j <= position && (j < p.layout.sink || j >= window);
    double score = -INFINITY;
    if (visible) {
        const uint8_t * row = reference_row(cache.k, cache.k_row, p.layout, token, head_kv, j);
        const float * q = p.q + (int64_t(token) * p.n_head + head) * p.head_size_k;
        score = 0;
        for (int d = 0; d < p.head_size_k; ++d) {
            score += double(q[d]) * cached_value(cache.type_k, row, d);
        }
        score *= p.scale;
        if (p.softcap != 0) {
            score = p.softcap * ::tanh(score / p.softcap);
        }
    }
    ref.scores[head * ref.n_keys + j] = score;
}

static __global__ void reference_maximum(Reference ref) {
    __shared__ double top[256];
    double m = -INFINITY;
    for (int64_t j = threadIdx.x; j < ref.n_keys; j += 256) {
        m = fmax(m, ref.scores[blockIdx.x * ref.n_keys + j]);
    }
    top[threadIdx.x] = m;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < 256; ++i) {
            m = fmax(m, top[i]);
        }
        ref.maximum[blockIdx.x] = m;
    }
}

static __global__ void reference_output(AttentionParams p, Cache cache, Reference ref, int token, int64_t keys_per_block) {
    const int head = blockIdx.y, head_kv = head / (p.n_head / p.layout.n_head_kv), d = threadIdx.x;
    const int64_t begin = blockIdx.x * keys_per_block, end = min(begin + keys_per_block, ref.n_keys);
    double sum = 0, out = 0;
    for (int64_t j = begin; j < end; ++j) {
        const double s = ref.scores[head * ref.n_keys + j];
        if (s == -INFINITY) {
            continue;
        }
        const double w = ::exp(s - ref.maximum[head]);
        sum += w;
        out += w * cached_value(cache.type_v, reference_row(cache.v, cache.v_row, p.layout, token, head_kv, j), d);
    }
    if (p.sinks && blockIdx.x == 0) {
        sum += ::exp(double(p.sinks[head]) - ref.maximum[head]);
    }
    atomicAdd(&ref.out[head * p.head_size_v + d], out);
    if (d == 0) {
        atomicAdd(&ref.sum[head], sum);
    }
}

// ---- One check --------------------------------------------------------------------------------------------------------------------------

struct Sequence {
    int position; // of its first token in this call
    int n_tokens;
};

struct Case {
    CacheType type = CacheType::f16;
    int head_size = 128, n_head = 8, n_head_kv = 2;
    std::vector<int> kinds = { 0, 1 }; // by KV head, repeated: sees every key, streams, keeps every key and sees a window
    bool sinks = false, by_head = false; // learned sinks; windows that differ by head
    int sink = 64, recent = 256, chunk = 1, ring = 0; // ring 0: the least multiple that serves
    std::vector<Sequence> sequences = { { 100, 1 } };
    float softcap = 0, q_scale = 1;
    bool knows_streams = true;     // tells the kernel how many tokens a stream has at most, else that one may have all
    CacheType type_v = CacheType(-1);
    int head_size_v = 0;
    bool rotated = false;          // V's rows are, so the output is rotated back

    std::string name() const {
        std::string s = std::string(type_name(type)) + " D" + std::to_string(head_size) + " " + std::to_string(n_head) + "/" + std::to_string(n_head_kv) +
            " S" + std::to_string(sink) + " R" + std::to_string(recent) + " C" + std::to_string(chunk);
        if (sinks) s += " learned sinks";
        if (by_head) s += " windows by head";
        if (type_v != CacheType(-1)) s += std::string(" v ") + type_name(type_v);
        if (softcap != 0) s += " softcap";
        if (rotated) s += " rotated";
        if (q_scale != 1) s += " q*" + std::to_string(q_scale);
        for (size_t i = 0; i < sequences.size() && i < 4; ++i) {
            s += " " + std::to_string(sequences[i].position) + "+" + std::to_string(sequences[i].n_tokens);
        }
        return s;
    }
};

// What the kernel is told that a stream has at most.
static int max_seq_tokens(const Case & c) {
    int all = 0, most = 0;
    for (const Sequence & s : c.sequences) {
        all += s.n_tokens;
        most = std::max(most, s.n_tokens);
    }
    return c.knows_streams ? most : all;
}

static uint64_t g_seed = 1;

static double run_case(const Case & c, bool verbose) {
    // An error of the query's rounding (2^-12) grows with the scores it makes.
    // Prefill rounds quantised keys and values to f16 too: four roundings instead of two, as stock does. Of a million heads eight are above 1.5e-3 by that alone
    // (simulated in float64), and a check has half a million.
    const CacheType type_v = c.type_v == CacheType(-1) ? c.type : c.type_v;
    const bool rounds_cache = max_seq_tokens(c) * (c.n_head / c.n_head_kv) > 32 && (is_block_type(c.type) || is_block_type(type_v));
    // Values with a minimum are the sum of two rounded products, each larger than they are.
    const bool adds_minimum = type_v == CacheType::q4_1 || type_v == CacheType::q5_1;
    // Of a quantised value a probability's product with the block's scale is rounded as well: of a million heads one is above 1e-3 by that alone, none above 1.25e-3
    // (simulated in float64).
    const double limit = (rounds_cache ? 2.5e-3 : adds_minimum ? 2e-3 : is_block_type(type_v) ? 1.3e-3 : 1e-3) * std::max(1.0f, c.q_scale);

    const int size_v = c.head_size_v ? c.head_size_v : c.head_size;
    const uint64_t seed = mix(g_seed++);

    int n_tokens = 0, n_ctx = 0, most = 0;
    std::vector<int32_t> tokens;
    std::vector<int> order(c.sequences.size());
    for (size_t s = 0; s < c.sequences.size(); ++s) {
        // Streams are numbered against the order of the tokens, so that a mix-up shows.
        const int stream = int(c.sequences.size() - 1 - s);
        for (int i = 0; i < c.sequences[s].n_tokens; ++i) {
            tokens.push_back(c.sequences[s].position + i);
            tokens.push_back(stream);
        }
        n_tokens += c.sequences[s].n_tokens;
        most  = std::max(most, c.sequences[s].n_tokens);
        n_ctx = std::max(n_ctx, c.sequences[s].position + c.sequences[s].n_tokens);
    }
    n_ctx = (n_ctx + 7) / 8 * 8;
    std::vector<Head> heads(c.n_head_kv);
    int64_t n_rows = 0;
    for (const bool streams : { false, true }) { // heads that keep everything first, as the cache lays them out
        for (int h = 0; h < c.n_head_kv; ++h) {
            const int kind = c.kinds[h % c.kinds.size()], recent = c.by_head ? c.recent / (h + 1) : c.recent;
            const int ring = (c.sink + (c.ring ? c.ring : recent + c.chunk + most) + 63) / 64 * 64 - c.sink;
            if ((kind == 1) == streams) {
                heads[h] = { int32_t(n_rows), kind == 0 ? SEES_ALL : recent, streams ? ring : n_ctx, 0 };
                n_rows += streams ? c.sink + ring : n_ctx;
            }
        }
    }
    std::vector<float> sinks(c.n_head);
    for (int h = 0; h < c.n_head; ++h) {
        sinks[h] = h % 3 == 0 ? 15.0f : h % 3 == 1 ? -2.0f : 1.5f; // far above the scores, below, and among them
    }

    Buffer<int32_t> d_tokens(tokens);
    Buffer<Head> d_heads(heads);
    Buffer<float> d_sinks(sinks);
    Layout layout { d_tokens.data, d_heads.data, n_rows, n_tokens, c.n_head_kv, c.sink, c.chunk };

    Cache cache { nullptr, nullptr, c.type, type_v, c.head_size, size_v, int64_t(row_bytes(c.type, c.head_size)), int64_t(row_bytes(type_v, size_v)) };
    const size_t all_rows = size_t(n_rows) * c.sequences.size();
    Buffer<uint8_t> k(all_rows * cache.k_row), v(all_rows * cache.v_row);
    k.fill_bytes(0xff), v.fill_bytes(0xff); // NaN in every format
    cache.k = k.data, cache.v = v.data;
    for (int i = 0; i < n_tokens; ++i) {
        const int p = tokens[2 * i];
        // What the next token of the stream sees too, it fills.
        const bool last = i + 1 == n_tokens || tokens[2 * i + 3] != tokens[2 * i + 1];
        const bool first = i == 0 || tokens[2 * i - 1] != tokens[2 * i + 1];
        if (first || last || i % 16 == 0 || c.recent < 16) {
            fill_visible<<<dim3(p / 128 + 1, c.n_head_kv), 128>>>(cache, layout, i, seed);
        }
    }
    CHECK(cudaGetLastError());

    const int64_t n_q = int64_t(n_tokens) * c.n_head * c.head_size, n_out = int64_t(n_tokens) * c.n_head * size_v;
    Buffer<float> q(n_q), out(n_out), again(n_out);
    fill_normal<<<1024, 256>>>(q.data, n_q, c.q_scale, seed ^ 77);
    out.fill_bytes(0xff), again.fill_bytes(0xff);

    AttentionParams p {};
    p.layout = layout;
    p.q = q.data, p.k_cache = k.data, p.v_cache = v.data, p.dst = out.data;
    p.n_head = c.n_head, p.head_size_k = c.head_size, p.head_size_v = size_v;
    p.max_seq_tokens = max_seq_tokens(c);
    p.sinks = c.sinks ? d_sinks.data : nullptr;
    p.type_k = c.type, p.type_v = type_v;
    p.scale = 1.0f / sqrtf(float(c.head_size)), p.softcap = c.softcap;
    p.rotation_v = c.rotated ? VALUE_ROTATION : 0;
    Buffer<uint8_t> workspace(attention_workspace(p, multiprocessors()));
    Buffer<int32_t> counters(N_COUNTERS);
    counters.fill_bytes(0), workspace.fill_bytes(0xff);
    p.partials = reinterpret_cast<float *>(workspace.data), p.counters = counters.data;
    CHECK(attention(p, nullptr));
    CHECK(cudaDeviceSynchronize());
    p.dst = again.data;
    CHECK(attention(p, nullptr));
    CHECK(cudaDeviceSynchronize());

    const std::vector<float> got = out.host(), got2 = again.host();
    bool ok = memcmp(got.data(), got2.data(), got.size() * sizeof(float)) == 0;
    if (!ok) {
        printf("  two runs differ\n");
    }
    for (const int32_t x : counters.host()) {
        ok = ok && x == 0;
    }
    for (const float x : got) {
        ok = ok && std::isfinite(x);
    }

    // A sample of the tokens, with both ends of each sequence, against the reference.
    std::vector<int> sample;
    const int wanted = n_ctx > 100000 ? 2 : 24;
    for (int i = 0; i < n_tokens; ++i) {
        const bool end = i == 0 || i + 1 == n_tokens || tokens[2 * i + 1] != tokens[2 * i - 1] || tokens[2 * i + 1] != tokens[2 * i + 3];
        if (end || n_tokens <= wanted || int(mix(seed + i) % n_tokens) < wanted) {
            sample.push_back(i);
        }
    }
    Buffer<double> scores(size_t(n_ctx) * c.n_head), maximum(c.n_head), sum(c.n_head), ref_out(size_t(c.n_head) * size_v);
    double worst = 0;
    int worst_token = 0, worst_head = 0;
    for (const int token : sample) {
        Reference ref { scores.data, maximum.data, sum.data, ref_out.data, tokens[2 * token] + 1 };
        sum.fill_bytes(0), ref_out.fill_bytes(0);
        const int64_t per_block = std::max<int64_t>(256, ref.n_keys / 256);
        reference_scores<<<dim3(uint32_t(ref.n_keys / 128 + 1), c.n_head), 128>>>(p, cache, ref, token);
        reference_maximum<<<c.n_head, 256>>>(ref);
        reference_output<<<dim3(uint32_t((ref.n_keys + per_block - 1) / per_block), c.n_head), size_v>>>(p, cache, ref, token, per_block);
        CHECK(cudaGetLastError());
        const std::vector<double> want = rotated_rows(ref_out.host(), p.rotation_v), total = sum.host();
        for (int h = 0; h < c.n_head; ++h) {
            double difference = 0, norm = 0;
            for (int d = 0; d < size_v; ++d) {
                const double w = want[size_t(h) * size_v + d] / total[h], g = got[(size_t(token) * c.n_head + h) * size_v + d];
                difference += (g - w) * (g - w), norm += w * w;
            }
            const double e = std::sqrt(difference / norm);
            if (!(e <= worst)) {
                worst = e, worst_token = token, worst_head = h;
            }
        }
    }
    ok = ok && worst < limit;
    if (verbose || !ok) {
        printf("%s %-70s error %.2e (token %d head %d)\n", ok ? "ok  " : "FAIL", c.name().c_str(), worst, worst_token, worst_head);
        fflush(stdout);
    }
    return ok ? worst : -1;
}

// ---- All checks -------------------------------------------------------------------------------------------------------------------------

static int check(bool quick, const char * filter) {
    std::vector<Case> cases;
    const std::vector<CacheType> fast = { CacheType::f16, CacheType::bf16, CacheType::q8_0, CacheType::q4_0 };
    const auto add = [&](const std::function<void(Case &)> & change) {
        for (const CacheType type : fast) {
            Case c;
            c.type = type;
            change(c);
            if (row_bytes(type, 32) != 64 && c.head_size % 32 != 0) {
                continue; // no quantised rows of this size
            }
            cases.push_back(c);
            if (c.sequences.size() > 1) {
                c.knows_streams = false;
                cases.push_back(c);
            }
        }
    };

    // Boundaries of one token: around the sinks, sinks + recent, the ring's wrap.
    for (const int p : { 0, 1, 7, 8, 63, 64, 65, 319, 320, 321, 383, 384, 385, 1000, 1087, 1088, 4095, 4096, 20000 }) {
        add([&](Case & c) { c.sequences = { { p, 1 } }, c.ring = 1024; });
    }
    for (const int p : { 3, 4, 5, 19, 20, 21, 36, 37, 100, 127, 128 }) { // odd sizes, chunk, no sinks, no recent
        add([&](Case & c) { c.sequences = { { p, 1 } }, c.sink = 4, c.recent = 16, c.chunk = 1; });
        add([&](Case & c) { c.sequences = { { p, 1 } }, c.sink = 5, c.recent = 13, c.chunk = 7; });
        add([&](Case & c) { c.sequences = { { p, 1 } }, c.sink = 0, c.recent = 10, c.chunk = 1; });
        add([&](Case & c) { c.sequences = { { p, 1 } }, c.sink = 3, c.recent = 0, c.chunk = 1; });
    }
    for (const auto & group : { std::pair<int, int> { 1, 4 }, { 3, 3 }, { 4, 4 }, { 8, 2 }, { 16, 2 }, { 5, 2 }, { 12, 1 } }) {
        add([&](Case & c) { c.n_head = group.first * group.second, c.n_head_kv = group.second, c.sequences = { { 3000, 1 } }; });
    }
    for (const int d : { 64, 80, 96, 112, 128, 192, 256, 512, 40 }) {
        for (const int ratio : { 1, 4, 16 }) {
            add([&](Case & c) { c.head_size = d, c.n_head_kv = 3, c.n_head = 3 * ratio, c.sequences = { { 2500, 1 } }; });
        }
        add([&](Case & c) { c.head_size = d, c.sequences = { { 900, 3 }, { 10, 1 }, { 2000, 7 } }; });
    }
    // Learned sinks, and windows that differ by head: decode of one and of several, prefill with and without splits.
    for (const bool by_head : { false, true }) {
        for (const std::vector<Sequence> & sequences : std::vector<std::vector<Sequence>> { { { 0, 1 } }, { { 3000, 1 } }, { { 900, 3 }, { 10, 1 }, { 2000, 7 } }, { { 700, 40 } }, { { 100, 2000 } } }) {
            for (const int d : { 64, 128, 512, 40 }) {
                add([&](Case & c) { c.sinks = true, c.by_head = by_head, c.head_size = d, c.n_head_kv = 4, c.n_head = 12, c.kinds = { 0, 1, 2, 1 }, c.sequences = sequences; });
            }
        }
    }
    // Heads of more dimensions than a warp's registers hold, in the groups that models have, around the bounds of tiles and shares.
    for (const std::pair<int, int> heads : { std::pair<int, int> { 8, 1 }, { 8, 2 }, { 16, 1 }, { 16, 2 }, { 32, 4 }, { 20, 1 }, { 7, 7 } }) {
        const int n_head = heads.first, n_head_kv = heads.second;
        for (const int p : { 0, 5, 31, 32, 321, 1500, 20000 }) {
            const int first = n_head_kv == 1 && p % 2; // kind
            add([&](Case & c) { c.head_size = 512, c.n_head = n_head, c.n_head_kv = n_head_kv, c.kinds = { first, 1 }, c.sequences = { { p, 1 } }; });
        }
        for (const int n : { 2, 4, 9, 33, 65, 200 }) {
            add([&](Case & c) {
                c.head_size = 512, c.n_head = n_head, c.n_head_kv = n_head_kv, c.kinds = { 0, 1, 2 }, c.sequences = { { 600, n } }, c.softcap = n % 2 ? 30 : 0;
            });
        }
    }
    add([&](Case & c) { c.head_size = 512, c.n_head = 16, c.sequences = { { 10, 1 }, { 2000, 1 }, { 300, 1 }, { 64, 1 }, { 5000, 1 }, { 0, 1 }, { 777, 1 }, { 4096, 1 } }; });
    add([&](Case & c) { c.head_size = 512, c.sequences = { { 10, 1 }, { 2000, 40 }, { 300, 1 }, { 64, 1 } }; });
    add([&](Case & c) { c.head_size = 512, c.sequences = { { 3000, 1 } }, c.q_scale = 1e-37f; });
    // Every pair of types that are not both of one fast kernel of their own.
    for (const CacheType k : { CacheType::f16, CacheType::q4_0, CacheType::q4_1, CacheType::q5_0, CacheType::q5_1, CacheType::q8_0, CacheType::iq4_nl }) {
        for (const CacheType v : { CacheType::f16, CacheType::q4_0, CacheType::q4_1, CacheType::q5_0, CacheType::q5_1, CacheType::q8_0, CacheType::iq4_nl }) {
            if (k == v && (k == CacheType::f16 || k == CacheType::q4_0 || k == CacheType::q8_0)) {
                continue;
            }
            for (const int d : { 64, 128, 192, 256, 512 }) {
                const auto pair = [&](const std::function<void(Case &)> & change) {
                    Case c;
                    c.type = k, c.type_v = v, c.head_size = d;
                    change(c);
                    cases.push_back(c);
                };
                pair([&](Case & c) { c.sequences = { { 2500, 1 } }; });
                pair([&](Case & c) { c.sequences = { { 900, 3 }, { 10, 1 }, { 2000, 7 } }; });
                if (k == v || k == CacheType::f16 || v == CacheType::f16 || k == CacheType::q8_0) {
                    pair([&](Case & c) { c.sequences = { { 20, 1 } }, c.n_head = 32; });
                    pair([&](Case & c) { c.sequences = { { 700, 40 } }, c.kinds = { 0, 1, 2 }, c.n_head = 9, c.n_head_kv = 3; });
                    pair([&](Case & c) { c.sequences = { { 100, 700 } }; });
                }
            }
        }
    }
    // Several sequences, one token each, and the tokens of a speculative step.
    add([&](Case & c) { c.sequences = { { 10, 1 }, { 2000, 1 }, { 300, 1 }, { 64, 1 }, { 5000, 1 }, { 0, 1 }, { 777, 1 }, { 4096, 1 } }; });
    add([&](Case & c) { c.sequences = { { 10, 1 }, { 2000, 40 }, { 300, 1 }, { 64, 1 } }; }); // one of them prefills
    add([&](Case & c) { c.sequences = { { 10, 1 }, { 2000, 1 }, { 300, 1 } }; });
    for (const int n : { 2, 3, 4, 5, 8, 17, 33, 64, 65, 100 }) {
        add([&](Case & c) { c.sequences = { { 1500, n } }; });
        add([&](Case & c) { c.sequences = { { 0, n } }, c.chunk = 16; });
        add([&](Case & c) { c.sequences = { { 50, n }, { 310, n } }, c.sink = 60, c.recent = 250; });
    }
    for (const int n : { 3, 6, 7, 11, 12, 16 }) { // columns that fill the products of batch.cuh and those that do not
        add([&](Case & c) { c.sequences = { { 319, n } }, c.ring = 1024; });
        add([&](Case & c) { c.sequences = { { 1080, n }, { 0, 1 }, { 4000, n / 2 } }, c.ring = 1024, c.kinds = { 0, 1, 2 }, c.n_head = 12, c.n_head_kv = 3; });
        add([&](Case & c) { c.sequences = { { 20000, n } }, c.n_head = 32, c.n_head_kv = 8; });
        add([&](Case & c) { c.sequences = { { 60, n } }, c.sink = 5, c.recent = 13, c.chunk = 7, c.softcap = 20; });
    }
    for (const int ratio : { 1, 3, 5, 7, 16, 20 }) {
        add([&](Case & c) { c.sequences = { { 2000, 3 }, { 7000, 2 } }, c.n_head_kv = 2, c.n_head = 2 * ratio, c.sinks = true; });
    }
    add([&](Case & c) { c.sequences = { { 20000, 4 }, { 5000, 4 }, { 100, 3 }, { 0, 4 } }, c.n_head = 32, c.n_head_kv = 8; });
    add([&](Case & c) { c.sequences = { { 3000, 1 } }, c.softcap = 30, c.q_scale = 4; });
    add([&](Case & c) { c.sequences = { { 3000, 5 } }, c.softcap = 30, c.q_scale = 4; });
    for (const float scale : { 1e-6f, 1e-37f, 0.0f }) { // of the second, a query times 2^127 is still small
        for (const int n : { 1, 3, 8, 50 }) {
            add([&](Case & c) { c.sequences = { { 3000, n } }, c.q_scale = scale; });
        }
    }
    add([&](Case & c) { c.sequences = { { 3000, 200 } }, c.kinds = { 0 }; });
    add([&](Case & c) { c.sequences = { { 3000, 200 } }, c.kinds = { 1 }, c.chunk = 100; });
    for (const int n : { 1, 3, 200 }) {
        for (const int p : { 0, 40, 300, 1088, 5000 }) {
            add([&](Case & c) { c.sequences = { { p, n }, { 2 * p, 1 } }, c.kinds = { 2, 1, 0 }, c.n_head = 12, c.n_head_kv = 3, c.chunk = n; });
        }
    }
    if (!quick) {
        for (const int n : { 256, 512, 1000, 2048 }) {
            add([&](Case & c) { c.sequences = { { 0, n } }; });
            add([&](Case & c) { c.sequences = { { 5000, n } }, c.n_head = 32, c.n_head_kv = 8; });
        }
        add([&](Case & c) { c.sequences = { { 900, 300 }, { 0, 200 }, { 2000, 7 }, { 10, 1 } }; });
        for (const int d : { 64, 80, 96, 192, 256, 512 }) {
            add([&](Case & c) { c.head_size = d, c.sequences = { { 777, 300 } }, c.n_head = 6, c.n_head_kv = 2; });
        }
        for (const int ratio : { 1, 3, 8, 16 }) {
            add([&](Case & c) { c.n_head = 2 * ratio, c.sequences = { { 777, 300 } }; });
        }
        // A million keys, of equal and of unequal weight.
        add([&](Case & c) { c.sequences = { { (1 << 20) - 1, 1 } }, c.q_scale = 0; });
        add([&](Case & c) { c.sequences = { { (1 << 20) - 1, 1 } }; });
        add([&](Case & c) { c.sequences = { { 1 << 20, 8 } }, c.q_scale = 0; });
        add([&](Case & c) { c.sequences = { { 1 << 20, 8 } }; });
        add([&](Case & c) { c.sequences = { { 1 << 20, 40 } }, c.q_scale = 0; });
        add([&](Case & c) { c.sequences = { { 1 << 20, 40 } }; });
        add([&](Case & c) { c.sequences = { { 131072, 1 } }, c.n_head = 32, c.n_head_kv = 8; });
        for (const float scale : { 0.0f, 1.0f }) {
            add([&](Case & c) { c.head_size = 512, c.sequences = { { (1 << 20) - 1, 1 } }, c.n_head = 4, c.n_head_kv = 1, c.kinds = { 0 }, c.q_scale = scale; });
            for (const CacheType type : { CacheType::q4_1, CacheType::q5_0, CacheType::q5_1, CacheType::iq4_nl }) {
                Case c;
                c.type = type, c.sequences = { { (1 << 20) - 1, 1 } }, c.q_scale = scale;
                cases.push_back(c);
            }
        }
    }
    // Every type, and two types at once, by the general kernel: those that have a fast one with a head size that has none.
    for (int type = 0; type < 9; ++type) {
        Case c;
        c.type = CacheType(type), c.sequences = { { 700, 3 }, { 2, 2 } }, c.head_size = 160;
        cases.push_back(c);
        c.type_v = CacheType::bf16, c.head_size = 64;
        cases.push_back(c);
    }
    Case mixed;
    mixed.type = CacheType::q8_0, mixed.type_v = CacheType::q4_0, mixed.sequences = { { 700, 3 } }, mixed.head_size = 64, mixed.head_size_v = 96;
    cases.push_back(mixed);
    if (!quick) {
        // More tokens than a grid has rows, and more heads than a decode launch can plan.
        Case many;
        many.type = CacheType::q5_0, many.head_size = 64, many.n_head = 2, many.n_head_kv = 1, many.kinds = { 1 }, many.sequences = { { 0, 66000 } };
        cases.push_back(many);
        for (const auto & [n_head_kv, ratio] : { std::pair<int, int> { 300, 1 }, { 64, 100 } }) {
            Case heads;
            heads.type = CacheType::f16, heads.head_size = 64, heads.n_head_kv = n_head_kv, heads.n_head = n_head_kv * ratio, heads.sequences = { { 500, 1 } };
            cases.push_back(heads);
        }
    }

    for (size_t i = 0, n = cases.size(); i < n; ++i) { // quantised values also rotated
        Case c = cases[i];
        if (is_block_type(c.type_v == CacheType(-1) ? c.type : c.type_v) && (c.head_size_v ? c.head_size_v : c.head_size) % VALUE_ROTATION == 0) {
            c.rotated = true;
            cases.push_back(c);
        }
    }

    int failed = 0;
    double worst[9] = {};
    size_t n_run = 0;
    for (const Case & c : cases) {
        if (!strstr(c.name().c_str(), filter)) {
            continue;
        }
        ++n_run;
        const double e = run_case(c, false);
        failed += e < 0;
        worst[int(c.type)] = std::max(worst[int(c.type)], e);
    }
    printf("%zu cases, %d failed; worst relative L2 of a token and head, by type of K:", n_run, failed);
    for (int t = 0; t < 9; ++t) {
        printf(" %s %.1e", type_name(CacheType(t)), worst[t]);
    }
    printf("\n");
    return failed != 0 || n_run == 0;
}

// ---- The cache writer ---------------------------------------------------------------------------------------------------------------------

static uint16_t half_bits(float x) {
    const __half h = __float2half_rn(x);
    uint16_t u;
    memcpy(&u, &h, 2);
    return u;
}

// ggml's rule, one block at a time, on the host.
static void quantise_block(CacheType type, const float * x, uint8_t * b) {
    float top = 0, top_signed = 0, low = x[0], high = x[0];
    for (int j = 0; j < 32; ++j) {
        if (std::fabs(x[j]) > top) {
            top = std::fabs(x[j]), top_signed = x[j];
        }
        low = std::min(low, x[j]), high = std::max(high, x[j]);
    }
    const auto put = [&](int at, float v) { const uint16_t u = half_bits(v); memcpy(b + at, &u, 2); };
    const auto quant = [&](float scaled, float bias, int most) {
        volatile float product = scaled; // no contraction
        return std::min(most, int(int8_t(product + bias)));
    };
    if (type == CacheType::q8_0) {
        const float d = top / 127, id = d ? 1 / d : 0;
        put(0, d);
        for (int j = 0; j < 32; ++j) {
            b[2 + j] = uint8_t(int8_t(roundf(x[j] * id)));
        }
        return;
    }
    if (type == CacheType::iq4_nl) {
        static const float levels[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };
        const float d = top_signed / levels[0], id = d ? 1 / d : 0;
        volatile float sum_qx = 0, sum_qq = 0, term; // no contraction
        memset(b + 2, 0, 16);
        for (int j = 0; j < 32; ++j) {
            int best = 0;
            for (int i = 1; i < 16; ++i) {
                best = std::fabs(x[j] * id - levels[i]) <= std::fabs(x[j] * id - levels[best]) ? i : best;
            }
            b[2 + j % 16] |= best << (j < 16 ? 0 : 4);
            const float weighted = x[j] * x[j] * levels[best];
            term = weighted * x[j],         sum_qx = sum_qx + term;
            term = weighted * levels[best], sum_qq = sum_qq + term;
        }
        put(0, sum_qq > 0 ? sum_qx / sum_qq : 0);
        return;
    }
    const bool five = type == CacheType::q5_0 || type == CacheType::q5_1, min = type == CacheType::q4_1 || type == CacheType::q5_1;
    const int range = five ? 31 : 15, at = min ? 4 : 2, quants = at + (five ? 4 : 0);
    const float d = min ? (high - low) / range : top_signed / -((range + 1) / 2), id = d ? 1 / d : 0;
    put(0, d);
    if (min) {
        put(2, low);
    }
    uint32_t fifth = 0;
    for (int j = 0; j < 16; ++j) {
        int v[2];
        for (int i = 0; i < 2; ++i) {
            volatile float base = min ? x[j + 16 * i] - low : x[j + 16 * i];
            v[i] = quant(base * id, min ? 0.5f : (range + 1) / 2 + 0.5f, range);
            fifth |= uint32_t(v[i] >> 4 & 1) << (j + 16 * i);
        }
        b[quants + j] = uint8_t((v[0] & 15) | (v[1] & 15) << 4);
    }
    if (five) {
        memcpy(b + at, &fifth, 4);
    }
}

// size: of heads. rotation_k, rotation_v: StoreParams'. Of few tokens several warps share a row.
static int check_store(int size, int rotation_k, int rotation_v, int n_tokens = 14) {
    int failed = 0;
    for (const CacheType type : { CacheType::f32, CacheType::f16, CacheType::bf16, CacheType::q4_0, CacheType::q4_1, CacheType::q5_0, CacheType::q5_1, CacheType::q8_0, CacheType::iq4_nl }) {
        const int n_head_kv = 4, n_head = 12, sink = 4, recent = 8, ring = 68, n_ctx = 128, n_streams = 2;
        std::vector<int32_t> tokens;
        for (int i = 0; i < n_tokens - 3; ++i) tokens.push_back(30 + i), tokens.push_back(1);
        for (int i = 0; i < 3; ++i) tokens.push_back(2 + i), tokens.push_back(0);
        const std::vector<Head> heads = { { 0, SEES_ALL, n_ctx, 0 }, { 2 * n_ctx, recent, ring, 0 }, { n_ctx, recent, n_ctx, 0 }, { 2 * n_ctx + sink + ring, recent, ring, 0 } };
        const int64_t n_rows = 2 * n_ctx + 2 * (sink + ring);
        std::vector<float> k(size_t(n_tokens) * n_head_kv * size), v(k.size());
        std::mt19937 random(uint32_t(g_seed++));
        std::normal_distribution<float> normal_host;
        for (size_t i = 0; i < k.size(); ++i) {
            k[i] = normal_host(random), v[i] = i % 97 == 0 ? -2.0f : i % 89 == 0 ? 2.0f : std::round(normal_host(random) * 8) / 8; // with ties
        }
        std::fill(v.begin() + 256, v.begin() + 320, 0.0f);
        std::vector<float> q(size_t(n_tokens) * n_head * size);
        for (float & x : q) {
            x = normal_host(random);
        }
        const size_t row = row_bytes(type, size);
        Buffer<float> dk(k), dv(v), dq(q), rotated(q.size());
        rotated.fill_bytes(0xff);
        Buffer<int32_t> dt(tokens);
        Buffer<Head> dh(heads);
        Buffer<uint8_t> ck(n_rows * n_streams * row), cv(n_rows * n_streams * row);
        ck.fill_bytes(0xcd), cv.fill_bytes(0xcd);
        StoreParams p {};
        p.layout = { dt.data, dh.data, n_rows, n_tokens, n_head_kv, sink, 1 };
        p.k = dk.data, p.v = dv.data, p.k_cache = ck.data, p.v_cache = cv.data, p.head_size_k = p.head_size_v = size, p.type_k = p.type_v = type;
        p.q = dq.data, p.q_rotated = rotated.data, p.n_head = n_head, p.rotation_k = rotation_k, p.rotation_v = rotation_v;
        CHECK(store(p, nullptr));
        CHECK(cudaDeviceSynchronize());
        if (const std::vector<float> got = rotated.host(), want = rotated_rows(q, rotation_k); rotation_k && memcmp(got.data(), want.data(), got.size() * sizeof(float)) != 0) {
            ++failed;
            printf("FAIL queries rotated by %d\n", rotation_k);
        }
        for (int side = 0; side < 2; ++side) {
            std::vector<uint8_t> want(ck.n, 0xcd);
            const std::vector<float> x = rotated_rows(side ? v : k, side ? rotation_v : rotation_k);
            for (int i = 0; i < n_tokens; ++i) {
                for (int h = 0; h < n_head_kv; ++h) {
                    const int j = tokens[2 * i];
                    const int64_t cell = heads[h].ring == ring && j >= sink ? sink + (j - sink) % ring : j;
                    uint8_t * out = want.data() + (tokens[2 * i + 1] * n_rows + heads[h].first_row + cell) * row;
                    const float * from = x.data() + (size_t(i) * n_head_kv + h) * size;
                    for (int d = 0; d < size; ++d) {
                        if (type == CacheType::f32) {
                            memcpy(out + 4 * d, from + d, 4);
                        } else if (type == CacheType::f16) {
                            const uint16_t u = half_bits(from[d]);
                            memcpy(out + 2 * d, &u, 2);
                        } else if (type == CacheType::bf16) {
                            const __nv_bfloat16 b = __float2bfloat16(from[d]);
                            memcpy(out + 2 * d, &b, 2);
                        } else if (d % 32 == 0) {
                            quantise_block(type, from + d, out + d / 32 * (row * 32 / size));
                        }
                    }
                }
            }
            const std::vector<uint8_t> got = side ? cv.host() : ck.host();
            size_t n_wrong = 0;
            for (size_t i = 0; i < got.size(); ++i) {
                n_wrong += got[i] != want[i];
            }
            if (n_wrong) {
                ++failed;
                printf("FAIL store %s %s: %zu of %zu bytes differ\n", type_name(type), side ? "v" : "k", n_wrong, got.size());
            }
        }
    }
    printf("store of %d tokens, heads of %d rotated by %d and %d: %s\n", n_tokens, size, rotation_k, rotation_v, failed ? "FAILED" : "every type bit for bit");
    return failed;
}

// ---- Times ------------------------------------------------------------------------------------------------------------------------------

// Reads, or copies, the share of each block.
template <bool COPY>
static __global__ void __launch_bounds__(512) stream_bytes(const uint4 * from, uint4 * to, int64_t n) {
    const int64_t share = n / gridDim.x;
    const uint4 * x = from + share * blockIdx.x;
    uint4 * y = to + (COPY ? share * blockIdx.x : 0);
    uint32_t sum = 0;
    for (int64_t i = threadIdx.x; i + 3 * 512 < share; i += 4 * 512) {
        uint4 v[4];
#pragma unroll
        for (int u = 0; u < 4; ++u) v[u] = __ldcs(x + i + u * 512);
#pragma unroll
        for (int u = 0; u < 4; ++u) {
            if (COPY) __stcs(y + i + u * 512, v[u]);
            else sum += v[u].x ^ v[u].y ^ v[u].z ^ v[u].w;
        }
    }
    if (sum == 0x12345678) y[0].x = sum;
}

// Median milliseconds of a captured graph.
static double time_graph(const std::function<void(cudaStream_t)> & work, int repeats) {
    cudaStream_t stream;
    CHECK(cudaStreamCreate(&stream));
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    work(stream);
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    cudaEvent_t begin, end;
    CHECK(cudaEventCreate(&begin));
    CHECK(cudaEventCreate(&end));
    std::vector<float> times;
    for (int i = 0; i < repeats + 2; ++i) {
        CHECK(cudaEventRecord(begin, stream));
        CHECK(cudaGraphLaunch(exec, stream));
        CHECK(cudaEventRecord(end, stream));
        CHECK(cudaEventSynchronize(end));
        float ms;
        CHECK(cudaEventElapsedTime(&ms, begin, end));
        if (i >= 2) times.push_back(ms);
    }
    std::sort(times.begin(), times.end());
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaStreamDestroy(stream));
    return times[times.size() / 2];
}

static double measure_bandwidth(bool copy) {
    const size_t bytes = size_t(4) << 30;
    Buffer<uint8_t> a(bytes), b(copy ? bytes : 16);
    a.fill_bytes(0x5a);
    const double ms = time_graph([&](cudaStream_t s) {
        const auto kernel = copy ? stream_bytes<true> : stream_bytes<false>;
        kernel<<<65536, 512, 0, s>>>(reinterpret_cast<const uint4 *>(a.data), reinterpret_cast<uint4 *>(b.data), bytes / 16);
    }, 7);
    return (copy ? 2 : 1) * double(bytes) / ms * 1e3;
}

// Rotation as a launch of its own, one warp a piece of SIZE values: what ggml's product with a Hadamard matrix is.
template <int SIZE>
static __global__ void rotation_kernel(const float * from, float * to, int64_t n) {
    const int64_t piece = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
    if (piece >= n) {
        return;
    }
    ptx::wait_for_previous_kernel();
    float x[SIZE / 32];
    for (int i = 0; i < SIZE / 32; ++i) {
        x[i] = from[piece * SIZE + 32 * i + threadIdx.x % 32];
    }
    rotate<1, 32>(x, SIZE);
    for (int i = 0; i < SIZE / 32; ++i) {
        to[piece * SIZE + 32 * i + threadIdx.x % 32] = x[i];
    }
}

// Microseconds of a layer of the Llama-3-8B shape, half of the heads streaming: cache writer, attention, and rotation.
static void time_rotation() {
    constexpr int N_LAYERS = 32, D = 128, N_HEAD = 32, N_HEAD_KV = 8, SINK = 64, RECENT = 256;
    Device device = {};
    device.n_multiprocessors = multiprocessors(), device.starts_early = true;
    printf("%-28s %10s %10s %10s\n", "us a layer", "none", "launches", "operator");
    for (const CacheType type : { CacheType::f16, CacheType::q8_0, CacheType::q4_0 }) { // of f16, no rotation, to compare with
        for (const std::pair<int, int> at : { std::pair<int, int> { 0, 1 }, { 4096, 1 }, { 131072, 1 }, { 4096, 4 }, { 0, 512 }, { 4096, 512 } }) {
            const int depth = at.first, n_tokens = at.second, n_ctx = (depth + n_tokens + 63) / 64 * 64, ring = (SINK + RECENT + 1 + 512 + 63) / 64 * 64 - SINK;
            const int64_t n_rows = N_HEAD_KV / 2 * int64_t(n_ctx + SINK + ring), row = row_bytes(type, D);
            std::vector<int32_t> tokens;
            for (int i = 0; i < n_tokens; ++i) tokens.push_back(depth + i), tokens.push_back(0);
            std::vector<Head> heads;
            for (int h = 0; h < N_HEAD_KV; ++h) {
                const int i = h / 2;
                heads.push_back(h % 2 ? Head { N_HEAD_KV / 2 * n_ctx + i * (SINK + ring), RECENT, ring, 0 } : Head { i * n_ctx, SEES_ALL, n_ctx, 0 });
            }
            Buffer<int32_t> d_tokens(tokens), counters(N_COUNTERS);
            Buffer<Head> d_heads(heads);
            Buffer<uint8_t> k(n_rows * row * N_LAYERS), v(n_rows * row * N_LAYERS);
            fill_all<<<uint32_t((n_rows * N_LAYERS + 127) / 128), 128>>>({ k.data, v.data, type, type, D, D, row, row }, n_rows * N_LAYERS, g_seed);
            Buffer<float> q(size_t(n_tokens) * N_HEAD * D), new_k(size_t(n_tokens) * N_HEAD_KV * D), new_v(new_k.n), q2(q.n), k2(new_k.n), v2(new_k.n), out(q.n), out2(q.n);
            for (Buffer<float> * x : { &q, &new_k, &new_v }) fill_normal<<<1024, 256>>>(x->data, x->n, 1.0f, 5);
            counters.fill_bytes(0);

            AttentionParams a {};
            a.layout = { d_tokens.data, d_heads.data, n_rows, n_tokens, N_HEAD_KV, SINK, 1 };
            a.n_head = N_HEAD, a.head_size_k = a.head_size_v = D, a.type_k = a.type_v = type, a.max_seq_tokens = n_tokens, a.scale = 1.0f / sqrtf(float(D));
            Buffer<uint8_t> workspace(attention_workspace(a, multiprocessors()));
            a.partials = reinterpret_cast<float *>(workspace.data), a.counters = counters.data, a.dst = out.data;
            StoreParams s {};
            s.layout = a.layout, s.head_size_k = s.head_size_v = D, s.type_k = s.type_v = type, s.n_head = N_HEAD;
            s.q = q.data, s.q_rotated = q2.data;
            CHECK(cudaDeviceSynchronize());

            const auto rotation = [&](auto size, const Buffer<float> & from, const Buffer<float> & to, cudaStream_t stream) {
                constexpr int SIZE = decltype(size)::value;
                const int64_t n = int64_t(from.n) / SIZE;
                CHECK(launch_early(device, rotation_kernel<SIZE>, uint32_t((n + 3) / 4), 128, 0, stream, (const float *) from.data, to.data, n));
            };
            enum { none, launches, by_operator };
            double best[3] = { 1e9, 1e9, 1e9 };
            for (int i = 0; i < 9; ++i) { // in turns
                const int how = is_block_type(type) ? i % 3 : none;
                const double ms = time_graph([&](cudaStream_t stream) {
                    for (int layer = 0; layer < N_LAYERS; ++layer) {
                        const std::integral_constant<int, 128> of_k;
                        const std::integral_constant<int, 64>  of_v;
                        s.k = how == launches ? k2.data : new_k.data, s.v = how == launches ? v2.data : new_v.data;
                        s.rotation_k = how == by_operator ? 128 : 0, s.rotation_v = a.rotation_v = how == by_operator ? VALUE_ROTATION : 0;
                        a.q = how == none ? q.data : q2.data;
                        s.k_cache = k.data + layer * n_rows * row, s.v_cache = v.data + layer * n_rows * row, a.k_cache = s.k_cache, a.v_cache = s.v_cache;
                        if (how == launches) {
                            rotation(of_k, q, q2, stream), rotation(of_k, new_k, k2, stream), rotation(of_v, new_v, v2, stream);
                        }
                        CHECK(store(s, stream));
                        CHECK(attention(a, stream));
                        if (how == launches) {
                            rotation(of_v, out, out2, stream);
                        }
                    }
                }, 9);
                best[how] = std::min(best[how], ms);
            }
            const std::string name = std::string(type_name(type)) + " " + std::to_string(n_tokens) + " at " + std::to_string(depth);
            printf("%-28s %10.2f", name.c_str(), best[none] * 1e3 / N_LAYERS);
            if (is_block_type(type)) {
                printf(" %10.2f %10.2f", best[launches] * 1e3 / N_LAYERS, best[by_operator] * 1e3 / N_LAYERS);
            }
            printf("\n");
            fflush(stdout);
        }
    }
}

struct Timing {
    const char * name;
    CacheType    type;
    int          depth, n_tokens, n_sequences;
    double       sparsity;
    double       bar_ms; // 0: none
    int          head_size = 128, n_head = 32, n_head_kv = 8;
    CacheType    type_v = CacheType(-1);
};

int main(int argc, char ** argv) {
    const std::string mode = argc > 1 ? argv[1] : "check";
    std::random_device entropy;
    g_seed = getenv("SEED") ? strtoull(getenv("SEED"), nullptr, 0) : (uint64_t(entropy()) << 32 | entropy());
    cudaDeviceProp device;
    CHECK(cudaGetDeviceProperties(&device, 0));
    int driver = 0, runtime = 0;
    CHECK(cudaDriverGetVersion(&driver));
    CHECK(cudaRuntimeGetVersion(&runtime));
    printf("%s, %d multiprocessors, CUDA driver %d runtime %d, seed 0x%llx\n", device.name, device.multiProcessorCount, driver, runtime, (unsigned long long) g_seed);
    fflush(stdout);
    if (const char * kilobytes = getenv("SHARED_KB")) {
        limit_shared_bytes(strtoull(kilobytes, nullptr, 10) << 10);
    }

    if (mode == "check") {
        const bool quick = argc > 2 && !strcmp(argv[2], "quick");
        return check(quick, argc > 2 + quick ? argv[2 + quick] : "");
    }
    if (mode == "store") {
        return check_store(128, 0, 0) + check_store(64, 64, 64) + check_store(128, 128, 64) + check_store(128, 128, 64, 60) + check_store(192, 64, 64) + check_store(256, 256, 64) + check_store(512, 512, 64) != 0;
    }
    if (mode == "rotate") {
        time_rotation();
        return 0;
    }
    if (mode == "one") { // one case, for sanitizers and for finding faults: type head_size n_head n_head_kv position n_tokens
        int failed = 0;
        for (int i = 2; i < argc; ++i) {
            Case c;
            char type[8], type_v[8] = "";
            int position, n;
            const char * rest = strchr(argv[i], ',');
            if (!rest || sscanf(argv[i], "%7[^:,]:%7[^,]", type, type_v) < 1 || sscanf(rest, ",%d,%d,%d,%d,%d", &c.head_size, &c.n_head, &c.n_head_kv, &position, &n) != 5) return 2;
            for (int t = 0; t < 9; ++t) {
                if (!strcmp(type, type_name(CacheType(t)))) c.type = CacheType(t);
                if (!strcmp(type_v, type_name(CacheType(t)))) c.type_v = CacheType(t);
            }
            c.sequences = { { position, n }, { position / 2, 1 } };
            failed += run_case(c, true) < 0;
        }
        return failed != 0;
    }

    std::vector<Timing> timings = {
        { "decode f16 full",        CacheType::f16,  131072, 1, 1, 0.0, 6.4 },
        { "decode f16 half",        CacheType::f16,  131072, 1, 1, 0.5, 3.4 },
        { "decode bf16 half",       CacheType::bf16, 131072, 1, 1, 0.5, 0 },
        { "decode q8_0 full",       CacheType::q8_0, 131072, 1, 1, 0.0, 0 },
        { "decode q8_0 half",       CacheType::q8_0, 131072, 1, 1, 0.5, 2.0 },
        { "decode q4_0 full",       CacheType::q4_0, 131072, 1, 1, 0.0, 0 },
        { "decode q4_0 half",       CacheType::q4_0, 131072, 1, 1, 0.5, 1.3 },
        { "decode f16 half 4K",     CacheType::f16,  4096,   1, 1, 0.5, 0 },
        { "decode f16 half 0",      CacheType::f16,  1,      1, 1, 0.5, 0 },
        { "decode q4_0 half 0",     CacheType::q4_0, 1,      1, 1, 0.5, 0 },
        { "decode q4_0 half 1M",    CacheType::q4_0, 1048576, 1, 1, 0.5, 0 },
        { "decode f16 half 32K x8", CacheType::f16,  32768,  8, 8, 0.5, 0 },
        { "speculative 2 f16 half", CacheType::f16,  131072, 2, 1, 0.5, 0 },
        { "speculative 2 q4_0 half", CacheType::q4_0, 131072, 2, 1, 0.5, 0 },
        { "speculative 4 f16 half", CacheType::f16,  131072, 4, 1, 0.5, 0 },
        { "speculative 4 q8_0 half", CacheType::q8_0, 131072, 4, 1, 0.5, 0 },
        { "speculative 4 q4_0 half", CacheType::q4_0, 131072, 4, 1, 0.5, 0 },
        { "speculative 2 q8_0 half", CacheType::q8_0, 131072, 2, 1, 0.5, 0 },
        { "speculative 8 f16 half", CacheType::f16,  131072, 8, 1, 0.5, 0 },
        { "speculative 8 q8_0 half", CacheType::q8_0, 131072, 8, 1, 0.5, 0 },
        { "speculative 8 q4_0 half", CacheType::q4_0, 131072, 8, 1, 0.5, 0 },
        { "speculative 16 f16 half", CacheType::f16, 131072, 16, 1, 0.5, 0 },
        { "speculative 16 q8_0 half", CacheType::q8_0, 131072, 16, 1, 0.5, 0 },
        { "speculative 16 q4_0 half", CacheType::q4_0, 131072, 16, 1, 0.5, 0 },
        { "speculative 4 q8_0 half 32K x4", CacheType::q8_0, 32768, 16, 4, 0.5, 0 },
        { "speculative 4 q4_0 half 32K x4", CacheType::q4_0, 32768, 16, 4, 0.5, 0 },
        { "prefill 32 f16 half",    CacheType::f16,  65536, 32, 1, 0.5, 0 },
        { "prefill 512 f16 half",   CacheType::f16,  65536, 512, 1, 0.5, 0 },
        { "prefill 2048 f16 full",  CacheType::f16,  65536, 2048, 1, 0.0, 0 },
        { "prefill 2048 f16 half",  CacheType::f16,  65536, 2048, 1, 0.5, 0 },
        { "prefill 2048 bf16 half", CacheType::bf16, 65536, 2048, 1, 0.5, 0 },
        { "prefill 2048 q8_0 half", CacheType::q8_0, 65536, 2048, 1, 0.5, 0 },
        { "prefill 2048 q4_0 half", CacheType::q4_0, 65536, 2048, 1, 0.5, 0 },
    };
    // Gemma 4's global layers: heads of 512, groups of 4 to 16. Beside them heads of 256, as in Gemma 3.
    static std::list<std::string> names; // of the cases below
    const auto name = [](const std::string & s) { return names.emplace_back(s).c_str(); };
    for (const CacheType type : { CacheType::f16, CacheType::bf16, CacheType::q8_0, CacheType::q4_0 }) {
        const std::string full = std::string(" ") + type_name(type) + " full ";
        timings.push_back({ name("decode" + full + "512 8/2"),  type, 131072, 1, 1, 0.0, 0, 512, 8, 2 });
        timings.push_back({ name("decode" + full + "512 16/2"), type, 131072, 1, 1, 0.0, 0, 512, 16, 2 });
        timings.push_back({ name("decode" + full + "512 32/4"), type, 131072, 1, 1, 0.0, 0, 512, 32, 4 });
        timings.push_back({ name("decode" + full + "512 32/2"), type, 131072, 1, 1, 0.0, 0, 512, 32, 2 });
        timings.push_back({ name("decode" + full + "512 32/4 0"), type, 1,    1, 1, 0.0, 0, 512, 32, 4 });
        timings.push_back({ name("decode" + full + "256 16/4"), type, 131072, 1, 1, 0.0, 0, 256, 16, 4 });
        timings.push_back({ name("decode" + full + "256 32/2"), type, 131072, 1, 1, 0.0, 0, 256, 32, 2 });
        timings.push_back({ name("decode" + full + "256 16/4 0"), type, 1,    1, 1, 0.0, 0, 256, 16, 4 });
        timings.push_back({ name("prefill 2048" + full + "512 32/4"), type, 32768, 2048, 1, 0.0, 0, 512, 32, 4 });
        timings.push_back({ name("prefill 512" + full + "512 32/4"),  type, 32768, 512, 1, 0.0, 0, 512, 32, 4 });
        timings.push_back({ name("prefill 2048" + full + "256 32/4"), type, 32768, 2048, 1, 0.0, 0, 256, 32, 4 });
    }
    // Speculative steps of other heads, and groups of 16.
    for (const CacheType type : { CacheType::f16, CacheType::q8_0, CacheType::q4_0 }) {
        for (const int n : { 4, 8 }) {
            const std::string tokens = std::to_string(n) + " " + type_name(type) + " half";
            timings.push_back({ name("speculative 64 32/8 " + tokens),  type, 131072, n, 1, 0.5, 0, 64, 32, 8 });
            timings.push_back({ name("speculative 256 16/4 " + tokens), type, 131072, n, 1, 0.5, 0, 256, 16, 4 });
        }
        timings.push_back({ name(std::string("decode ") + type_name(type) + " full 128 32/2"), type, 131072, 1, 1, 0.0, 0, 128, 32, 2 });
    }
    // Two types, and the types that share a kernel.
    for (const std::pair<CacheType, CacheType> pair : std::vector<std::pair<CacheType, CacheType>> {
             { CacheType::q8_0, CacheType::q4_0 }, { CacheType::f16, CacheType::q8_0 }, { CacheType::f16, CacheType::q4_0 }, { CacheType::q8_0, CacheType::f16 }, { CacheType::q4_0, CacheType::f16 },
             { CacheType::q4_1, CacheType::q4_1 }, { CacheType::q5_0, CacheType::q5_0 }, { CacheType::q5_1, CacheType::q5_1 }, { CacheType::iq4_nl, CacheType::iq4_nl } }) {
        const CacheType k = pair.first, v = pair.second;
        const std::string full = std::string(" ") + type_name(k) + "/" + type_name(v) + " full";
        timings.push_back({ name("decode" + full),               k, 131072, 1, 1, 0.0, 0, 128, 32, 8, v });
        timings.push_back({ name("decode" + full + " 256 16/4"), k, 131072, 1, 1, 0.0, 0, 256, 16, 4, v });
        timings.push_back({ name("decode" + full + " 512 32/4"), k, 131072, 1, 1, 0.0, 0, 512, 32, 4, v });
        timings.push_back({ name("prefill 2048" + full),         k, 32768, 2048, 1, 0.0, 0, 128, 32, 8, v });
    }

    const double copy = measure_bandwidth(true), read = measure_bandwidth(false);
    printf("copy %.2f TB/s (read + written), read only %.2f TB/s\n", copy / 1e12, read / 1e12);
    printf("%-36s %9s %9s %9s %9s %9s\n", "32 layers", "ms", "bar ms", "GB", "TB/s", "of copy");
    FILE * json = mode == "json" && argc > 2 ? fopen(argv[2], "w") : nullptr;
    if (json) {
        const char * commit = getenv("COMMIT");
        fprintf(json, "{\n  \"gpu\": \"%s\", \"commit\": \"%s\", \"driver\": %d, \"runtime\": %d, \"copyBytesPerSecond\": %.4g, \"readBytesPerSecond\": %.4g,\n  \"rows\": [", device.name, commit ? commit : "", driver, runtime, copy, read);
    }
    bool first_row = true;
    for (const Timing & t : timings) {
        bool selected = argc <= 2 || json;
        for (int i = 2; i < argc && !json; ++i) selected = selected || strstr(t.name, argv[i]);
        if (!selected) continue;

        const int D = t.head_size, n_head = t.n_head, n_head_kv = t.n_head_kv, sink = 64, recent = 256, n_full = int(n_head_kv * (1 - t.sparsity) + 0.5);
        const CacheType type_v = t.type_v == CacheType(-1) ? t.type : t.type_v;
        const int per_sequence = t.n_tokens / t.n_sequences, n_ctx = (t.depth + per_sequence + 63) / 64 * 64;
        const int ring = (sink + recent + 1 + 2048 + 63) / 64 * 64 - sink;
        const int64_t n_rows = int64_t(n_full) * n_ctx + int64_t(n_head_kv - n_full) * (sink + ring);
        const int64_t k_row = row_bytes(t.type, D), v_row = row_bytes(type_v, D);
        // Layers of their own where they fit, and in any case far more than the L2 cache.
        const bool prefill = t.n_tokens / t.n_sequences > 16;
        const int n_layers = prefill ? 2 : D != 128 || t.type_v != CacheType(-1) ? 8 : 32;
        const int n_buffers = prefill ? 2 : int(std::min<int64_t>(n_layers, (int64_t(60) << 30) / (n_rows * (k_row + v_row) * t.n_sequences)));
        std::vector<int32_t> tokens;
        for (int s = 0; s < t.n_sequences; ++s) {
            for (int i = 0; i < per_sequence; ++i) tokens.push_back(t.depth - 1 + i), tokens.push_back(s);
        }
        std::vector<Head> heads;
        for (int h = 0, f = 0, st = 0; h < n_head_kv; ++h) { // kinds alternate, as gates scatter them
            const bool streams = n_full == 0 || (n_full < n_head_kv && h % 2 == 1);
            heads.push_back({ streams ? n_full * n_ctx + st++ * (sink + ring) : f++ * n_ctx, streams ? recent : SEES_ALL, streams ? ring : n_ctx, 0 });
        }
        Buffer<int32_t> d_tokens(tokens);
        Buffer<Head> d_heads(heads);
        Buffer<uint8_t> k(size_t(n_rows) * k_row * t.n_sequences * n_buffers), v(size_t(n_rows) * v_row * t.n_sequences * n_buffers);
        Cache cache { k.data, v.data, t.type, type_v, D, D, k_row, v_row };
        const int64_t all = n_rows * t.n_sequences * n_buffers;
        fill_all<<<uint32_t((all + 127) / 128), 128>>>(cache, all, g_seed);
        Buffer<float> q(size_t(t.n_tokens) * n_head * D), out(q.n);
        fill_normal<<<1024, 256>>>(q.data, q.n, 1.0f, 5);
        AttentionParams p {};
        p.layout = { d_tokens.data, d_heads.data, n_rows, t.n_tokens, n_head_kv, sink, 1 };
        p.q = q.data, p.dst = out.data, p.n_head = n_head, p.head_size_k = p.head_size_v = D, p.type_k = t.type, p.type_v = type_v;
        p.max_seq_tokens = per_sequence, p.scale = 1.0f / sqrtf(float(D));
        Buffer<uint8_t> workspace(attention_workspace(p, multiprocessors()));
        Buffer<int32_t> counters(N_COUNTERS);
        counters.fill_bytes(0);
        p.partials = reinterpret_cast<float *>(workspace.data), p.counters = counters.data;
        CHECK(cudaDeviceSynchronize());

        const double ms = time_graph([&](cudaStream_t stream) {
            for (int layer = 0; layer < n_layers; ++layer) {
                AttentionParams a = p;
                a.k_cache = k.data + size_t(layer % n_buffers) * n_rows * k_row * t.n_sequences;
                a.v_cache = v.data + size_t(layer % n_buffers) * n_rows * v_row * t.n_sequences;
                CHECK(attention(a, stream));
            }
        }, prefill ? 3 : 15) * (32.0 / n_layers);

        double keys = 0; // query positions times visible keys, over KV heads
        for (int i = 0; i < per_sequence; ++i) {
            const double visible = t.depth + i, window = std::min<double>(visible, sink + recent + 1);
            keys += n_full * visible + (n_head_kv - n_full) * window;
        }
        const double flops = keys * t.n_sequences * (n_head / n_head_kv) * D * 4 * 32;
        const double bytes = (n_full * double(t.depth) + (n_head_kv - n_full) * std::min<double>(t.depth, sink + recent + per_sequence)) * (k_row + v_row) * 32 * t.n_sequences;
        if (prefill) {
            printf("%-36s %9.3f %9s %9.3f  %7.1f TFLOP/s\n", t.name, ms, "", bytes / 1e9, flops / ms / 1e9);
        } else {
            printf("%-36s %9.3f %9.1f %9.3f %9.2f %8.0f%%\n", t.name, ms, t.bar_ms, bytes / 1e9, bytes / ms / 1e9, 100 * bytes / ms * 1e3 / copy);
        }
        fflush(stdout);
        if (json) {
            fprintf(json, "%s\n    { \"case\": \"%s\", \"depth\": %d, \"kv\": \"%s\", \"kvValues\": \"%s\", \"headSize\": %d, \"heads\": %d, \"headsKv\": %d, \"sparsity\": %.2f, \"batch\": %d, \"tokens\": %d, \"ms\": %.4f, \"bytes\": %.0f, \"bandwidthShare\": %.3f, \"teraflops\": %.1f }",
                    first_row ? "" : ",", t.name, t.depth, type_name(t.type), type_name(type_v), D, n_head, n_head_kv, t.sparsity, t.n_sequences, t.n_tokens, ms, bytes, bytes / ms * 1e3 / copy, flops / ms / 1e9);
            first_row = false;
        }
    }
    if (json) {
        fprintf(json, "\n  ]\n}\n");
        fclose(json);
    }
    return 0;
}
