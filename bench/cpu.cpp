// Stock and mixed heads side by side on the CPU, in one run: bench-cpu [options]
//
//   --shape NAME                 random Q8_0 weights of a shape of cpp/synthetic/shapes.h (smollm2)
//   --kv LIST                    cache types (f16,q8_0,q4_0)
//   --depth LIST                 tokens in the cache (0,4096,16384)
//   --tokens N                   1: decoding; more: prefill of so many at the depth (1)
//   --threads N --reps N         (2, 5)
//   --json                       rows as JSON
//
// The cache is filled synthetically: positions are marked as held without computing anything, over rows of random values. Modes take turns within a
// repetition, so that whatever else the machine does strikes all of them; the median is reported, and the load beside it. Where a row would
// read faster than memory gives, or be much faster than an empty cache, something slowed the measurement of the empty cache down: all depths are measured
// again, and after a few times the run fails.
#include "synthetic.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

namespace {

struct options {
    std::string shape = "smollm2";
    std::vector<std::string> kv = { "f16", "q8_0", "q4_0" };
    std::vector<int> depths = { 0, 4096, 16384 };
    int  n_tokens  = 1;
    int  n_threads = 2;
    int  reps      = 5;
    bool json      = false;
};

options parse(int argc, char ** argv) {
    options o;
    for (int i = 1; i < argc; ++i) {
        const std::string flag = argv[i];
        if (flag == "--json") {
            o.json = true;
            continue;
        }
        if (i + 1 == argc) {
            fprintf(stderr, "%s: unknown, or without its value; see the top of bench/cpu.cpp\n", flag.c_str());
            exit(2);
        }
        const std::string value = argv[++i];
        if (flag == "--shape") { o.shape = value; }
        else if (flag == "--kv") { o.kv = split(value); }
        else if (flag == "--depth") { o.depths.clear(); for (const auto & d : split(value)) { o.depths.push_back(std::stoi(d)); } }
        else if (flag == "--tokens") { o.n_tokens = std::stoi(value); }
        else if (flag == "--threads") { o.n_threads = std::stoi(value); }
        else if (flag == "--reps") { o.reps = std::stoi(value); }
        else { fprintf(stderr, "%s: unknown flag\n", flag.c_str()); exit(2); }
    }
    return o;
}

// Read bandwidth of all threads over memory that no cache holds, GB/s: the best of five.
double read_bandwidth(int n_threads) {
    std::vector<uint64_t> data((256ull << 20) / 8 * n_threads, 1);
    double best = 0.0;
    for (int rep = 0; rep < 5; ++rep) {
        std::vector<std::thread> threads;
        std::vector<uint64_t> sums(n_threads * 16);
        const double start = now();
        for (int i = 0; i < n_threads; ++i) {
            threads.emplace_back([&, i] {
                const size_t n = data.size() / n_threads;
                uint64_t s[8] = {};
                for (const uint64_t * p = data.data() + i * n, * end = p + n; p < end; p += 8) {
                    for (int j = 0; j < 8; ++j) {
                        s[j] += p[j];
                    }
                }
                sums[i * 16] = s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
            });
        }
        for (auto & t : threads) {
            t.join();
        }
        if (sums[0] != 0) {
            best = std::max(best, data.size() * 8 / (now() - start) / 1e9);
        }
    }
    return best;
}

// One way to keep the cache, with a context of its own.
struct mode {
    const char * name;
    float        sparsity; // negative: stock
    llama_context * ctx;
};

constexpr int max_attempts = 5;

double step(const mode & m, int depth, int n) {
    llama_batch batch = make_batch(n, depth);
    const double start = now();
    if (llama_decode(m.ctx, batch) != 0) {
        fprintf(stderr, "%s: decoding failed\n", m.name);
        exit(1);
    }
    llama_synchronize(m.ctx);
    const double s = now() - start;
    llama_batch_free(batch);
    return s;
}

// Seconds of a step of each mode, the median.
std::vector<double> measure(const std::vector<mode> & modes, int depth, const options & o) {
    std::vector<std::vector<double>> seconds(modes.size());
    for (int rep = -1; rep < o.reps; ++rep) { // the first warms up
        for (size_t i = 0; i < modes.size(); ++i) {
            llama_memory_clear(llama_get_memory(modes[i].ctx), false);
            mark_held(modes[i].ctx, depth);
            const double s = step(modes[i], depth, o.n_tokens);
            if (rep >= 0) {
                seconds[i].push_back(s);
            }
        }
    }
    std::vector<double> medians;
    for (const auto & s : seconds) {
        medians.push_back(median(s));
    }
    return medians;
}

std::string load_average() {
    double load[3] = {};
    if (getloadavg(load, 3) < 1) {
        return "?";
    }
    char buf[32];
    snprintf(buf, sizeof(buf), "%.2f", load[0]);
    return buf;
}

} // namespace

int main(int argc, char ** argv) {
    const options o = parse(argc, argv);
    llama_log_set([](ggml_log_level level, const char * text, void *) { if (level == GGML_LOG_LEVEL_ERROR) { fputs(text, stderr); } }, nullptr);
    llama_backend_init();

    const bench_shape shape = shape_or_exit(o.shape);
    const auto model = make_random_model(shape);
    const std::string gates = periodic_gates(shape);
    double bandwidth = read_bandwidth(o.n_threads);
    const int max_depth = *std::max_element(o.depths.begin(), o.depths.end());

    fprintf(stderr, "%s%s, Q8_0 weights, %d threads, %d tokens a step, median of %d; read bandwidth %.1f GB/s; load before %s\n",
            o.shape.c_str(), shape.note.empty() ? "" : (" (" + shape.note + ")").c_str(), o.n_threads, o.n_tokens, o.reps, bandwidth, load_average().c_str());
    if (!o.json) {
        printf("%-6s %8s  %-10s %9s %9s %8s %11s %8s %9s %7s\n", "kv", "depth", "mode", "ms", "t/s", "x stock", "attention", "x stock", "GB/s", "share");
    }
    std::string rows;
    for (const std::string & kv : o.kv) {
        llama_context_params params = llama_context_default_params();
        params.n_ctx           = max_depth + o.n_tokens + 256;
        params.n_batch         = 2048;
        params.n_ubatch        = 512;
        params.n_threads       = o.n_threads;
        params.n_threads_batch = o.n_threads;
        params.type_k = params.type_v = type_of(kv);
        params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
        params.swa_full        = false; // as llama.cpp's own tools have it

        std::vector<mode> modes = { { "stock", -1.0f, nullptr }, { "duo 0", 0.0f, nullptr }, { "duo 0.5", 0.5f, nullptr } };
        for (mode & m : modes) {
            params.duo = llama_duo_default_params();
            if (m.sparsity >= 0.0f) {
                params.duo.enabled  = true;
                params.duo.sparsity = m.sparsity;
                params.duo.gates    = gates.c_str();
            }
            m.ctx = llama_init_from_model(model.get(), params);
            if (!m.ctx) {
                return 1;
            }
        }
        std::vector<int> depths = o.depths;
        std::sort(depths.begin(), depths.end());
        std::map<int, std::vector<double>> seconds; // by depth, of each mode
        const auto attention_of = [&](int depth, size_t i) { return seconds.count(0) ? seconds[depth][i] - seconds[0][i] : 0.0; };
        const auto gigabytes_of = [&](int depth, size_t i) { return work_of(modes[i].ctx, type_of(kv), type_of(kv), depth).bytes / 1e9; };
        // GB/s, 0: not known. A difference of two times that are nearly alike says nothing about bandwidth.
        const auto rate_of = [&](int depth, size_t i) {
            return attention_of(depth, i) > 0.1 * seconds[depth][i] && o.n_tokens == 1 ? gigabytes_of(depth, i) / attention_of(depth, i) : 0.0;
        };
        const auto is_possible = [&](int depth, size_t i) {
            return rate_of(depth, i) <= bandwidth && attention_of(depth, i) > -0.1 * seconds[depth][i];
        };
        for (int attempt = 1;; ++attempt) {
            for (const int depth : depths) {
                seconds[depth] = measure(modes, depth, o);
            }
            std::string impossible;
            for (const int depth : depths) {
                for (size_t i = 0; i < modes.size(); ++i) {
                    if (!is_possible(depth, i)) {
                        char text[128];
                        snprintf(text, sizeof(text), " %d tokens, %s: %.1f ms, of which attention %.1f;", depth, modes[i].name, seconds[depth][i] * 1e3,
                                attention_of(depth, i) * 1e3);
                        impossible += text;
                    }
                }
            }
            if (impossible.empty()) {
                break;
            }
            fprintf(stderr, "%s, measured again:%s load %s\n", kv.c_str(), impossible.c_str(), load_average().c_str());
            if (attempt == max_attempts) {
                fprintf(stderr, "The machine is too busy to measure: let other programs rest, and run this again.\n");
                return 1;
            }
            bandwidth = std::max(bandwidth, read_bandwidth(o.n_threads)); // what slowed steps down may have slowed this down, too
        }
        for (const int depth : depths) {
            for (size_t i = 0; i < modes.size(); ++i) {
                const double s         = seconds[depth][i];
                const double attention = attention_of(depth, i);
                const double gb        = gigabytes_of(depth, i);
                const double rate      = rate_of(depth, i);
                const double speedup   = seconds[depth][0] / s;
                const double faster    = attention > 0 ? attention_of(depth, 0) / attention : 0.0; // attention alone
                char row[512];
                if (o.json) {
                    char rates[80] = "\"gigabytesPerSecond\": null, \"bandwidthShare\": null";
                    if (rate > 0) {
                        snprintf(rates, sizeof(rates), "\"gigabytesPerSecond\": %.2f, \"bandwidthShare\": %.3f", rate, rate / bandwidth);
                    }
                    snprintf(row, sizeof(row),
                            "%s  {\"shape\": \"%s\", \"kv\": \"%s\", \"depth\": %d, \"tokens\": %d, \"mode\": \"%s\", \"ms\": %.3f, \"tokensPerSecond\": %.2f, "
                            "\"timesStock\": %.3f, \"attentionMs\": %.3f, \"attentionTimesStock\": %.3f, \"gigabytesRead\": %.4f, %s}",
                            rows.empty() ? "" : ",\n", o.shape.c_str(), kv.c_str(), depth, o.n_tokens, modes[i].name, s * 1e3, o.n_tokens / s, speedup,
                            attention * 1e3, faster, gb, rates);
                    rows += row;
                } else {
                    printf("%-6s %8d  %-10s %9.2f %9.1f %8.3f %8.2f ms %8.2f %9.2f %6.0f%%\n", kv.c_str(), depth, modes[i].name, s * 1e3, o.n_tokens / s, speedup,
                            attention * 1e3, faster, rate, 100 * rate / bandwidth);
                }
            }
        }
        fflush(stdout);
        for (mode & m : modes) {
            llama_free(m.ctx);
        }
    }
    if (o.json) {
        printf("{\"smaller\": \"%s\", \"readBandwidth\": %.2f, \"threads\": %d, \"loadAfter\": \"%s\", \"rows\": [\n%s\n]}\n", shape.note.c_str(), bandwidth, o.n_threads,
                load_average().c_str(), rows.c_str());
    }
    fprintf(stderr, "load after %s\n", load_average().c_str());
    return 0;
}
