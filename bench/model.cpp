// Stock (flash attention on) and mixed heads side by side in a whole model, on a GPU or the CPU, in one run: bench-model [options]
//
//   --device NAME          ggml's name of it: CUDA0, CPU (the first GPU, else the CPU)
//   --shape NAME           random Q8_0 weights of a shape of cpp/synthetic/shapes.h (llama-3-8b)
//   --cases LIST           decode@DEPTH, batchN@DEPTH: one token of each of N sequences, prefillN@DEPTH: N tokens, -ub 2048
//                          (decode@0, @131072, @1048576, @32768, prefill4096@0, @65536, batch8@0, @32768)
//   --kv LIST              cache types (f16,q8_0,q4_0)
//   --sparsity LIST        shares of the heads that stream (0.5,0)
//   --reps N --threads N   (20 for decoding and a tenth for prefill, 5 at least; 8)
//   --max-seconds N        starts nothing new after so long (300)
//   --json                 results as JSON on stdout, at the end
//   --out FILE             the same, written after every row, so that a run cut off leaves what it had
//
// The cache is filled synthetically: random rows, and positions marked as held. Stock's and a mixed cache without streaming heads get the same rows,
// so their logits can be compared: tokensAgree and logitsError tell how. The two contexts take turns step by step; where they do not fit beside
// one another (sideBySide false) one is measured after the other. The time is a whole llama_decode with what comes after it; attention's is that less
// the same at depth 0, so put a case at depth 0 before its like. $COMMIT goes into the results.
#include "copy-bandwidth.h"
#include "cuda-calls.h"
#include "duo-report.h"
#include "synthetic.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <regex>
#include <string>
#include <tuple>
#include <vector>

namespace {

struct options {
    std::string device;
    std::string shape = "llama-3-8b";
    std::vector<std::string> cases = { "decode@0", "decode@131072", "prefill4096@0", "prefill4096@65536", "decode@1048576", "batch8@0", "batch8@32768", "decode@32768" };
    std::vector<std::string> kv = { "f16", "q8_0", "q4_0" };
    std::vector<std::string> sparsity = { "0.5", "0" };
    int    reps        = 20;
    int    n_threads   = 8;
    double max_seconds = 300;
    bool   json        = false;
    std::string out;
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
            fprintf(stderr, "%s: unknown, or without its value; see the top of bench/model.cpp\n", flag.c_str());
            exit(2);
        }
        const std::string value = argv[++i];
        if      (flag == "--device")      { o.device = value; }
        else if (flag == "--shape")       { o.shape = value; }
        else if (flag == "--cases")       { o.cases = split(value); }
        else if (flag == "--kv")          { o.kv = split(value); }
        else if (flag == "--sparsity")    { o.sparsity = split(value); }
        else if (flag == "--reps")        { o.reps = std::stoi(value); }
        else if (flag == "--threads")     { o.n_threads = std::stoi(value); }
        else if (flag == "--max-seconds") { o.max_seconds = std::stod(value); }
        else if (flag == "--out")         { o.out = value; }
        else { fprintf(stderr, "%s: unknown flag\n", flag.c_str()); exit(2); }
    }
    return o;
}

// One step is n_tokens of each of n_seq sequences.
struct bench_case {
    std::string name;
    int  n_tokens = 1;
    int  n_seq    = 1;
    int  depth    = 0;
    bool decodes() const { return n_tokens == 1; }
    int  total() const { return n_tokens * n_seq; }
};

bench_case case_of(const std::string & text) {
    static const std::regex form("(decode|batch([0-9]+)|prefill([0-9]+))@([0-9]+)");
    std::smatch m;
    if (!std::regex_match(text, m, form)) {
        fprintf(stderr, "--cases has %s; expected decode@DEPTH, batchN@DEPTH or prefillN@DEPTH\n", text.c_str());
        exit(2);
    }
    bench_case c;
    c.name     = m[1];
    c.n_seq    = m[2].length() ? std::stoi(m[2]) : 1;
    c.n_tokens = m[3].length() ? std::stoi(m[3]) : 1;
    c.depth    = std::stoi(m[4]);
    return c;
}

constexpr int WARM_UP = 4; // decode steps before the timed ones: ggml captures a CUDA graph in the second

// Times of one way to keep the cache.
struct timing {
    std::vector<double> seconds;
    std::vector<float>  logits;   // of the last step
    std::vector<int>    tokens;   // the most probable one after each step
    cuda_calls          calls;    // in the timed steps
    duo_kv_size         size;
    attention_work      work;
};

using context_ptr = std::unique_ptr<llama_context, decltype(&llama_free)>;

class bench {
public:
    explicit bench(const options & o) : o(o), shape(shape_or_exit(o.shape)), gates(periodic_gates(shape)), began(now()) {
        for (int64_t il = 0; il < shape.n_layer; ++il) {
            n_global_heads = std::max(n_global_heads, global_heads(shape, il));
        }
        dev = o.device.empty() ? ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_GPU) : ggml_backend_dev_by_name(o.device.c_str());
        if (!dev && o.device.empty()) {
            dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        }
        if (!dev) {
            fprintf(stderr, "--device is %s; expected one of:", o.device.c_str());
            for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
                fprintf(stderr, " %s", ggml_backend_dev_name(ggml_backend_dev_get(i)));
            }
            fprintf(stderr, "\n");
            exit(2);
        }
        on_cpu = ggml_backend_dev_type(dev) == GGML_BACKEND_DEVICE_TYPE_CPU;
        bandwidth = copy_bandwidth(dev, o.n_threads);
        ggml_backend_dev_t devices[] = { on_cpu ? nullptr : dev, nullptr };
        llama_model_params load = llama_model_default_params();
        load.devices = devices;
        load.n_gpu_layers = on_cpu ? 0 : -1;
        model = make_random_model(shape, &load);
        note("%s, %s%s, copies at %.2f TB/s; model ready", ggml_backend_dev_description(dev), o.shape.c_str(),
                shape.note.empty() ? "" : (" (" + shape.note + ")").c_str(), bandwidth / 1e12);
    }

    void run() {
        if (!o.json) {
            printf("%-12s %8s %-6s %8s  %9s %9s %7s  %9s %9s %7s %7s  %7s %7s  %s\n", "case", "depth", "kv", "sparsity", "stock ms", "duo ms", "x stock",
                    "stock t/s", "duo t/s", "attn ms", "x stock", "share", "stock's", "notes");
        }
        for (const std::string & text : o.cases) {
            for (const std::string & kv : o.kv) {
                const bench_case c = case_of(text);
                context_ptr stock(nullptr, llama_free);
                std::unique_ptr<timing> stock_alone;
                bool stock_fits = true;
                for (const std::string & sparsity : o.sparsity) {
                    if (now() - began > o.max_seconds) {
                        note("%s %s %s: no time left", text.c_str(), kv.c_str(), sparsity.c_str());
                        left_out.push_back(text + " " + kv + " " + sparsity);
                        continue;
                    }
                    measure(c, text, kv, std::stof(sparsity), stock, stock_fits, stock_alone);
                }
            }
        }
        if (o.json) {
            fputs(document().c_str(), stdout);
        }
    }

private:
    template <typename... Args>
    void note(const char * form, Args... args) {
        fprintf(stderr, "bench-model: %6.1f s: ", now() - began);
        fprintf(stderr, form, args...);
        fprintf(stderr, "\n");
    }

    // Null where it does not fit. Nothing but the cache's size decides that, so what llama.cpp says of it is not repeated.
    context_ptr make(const bench_case & c, const std::string & kv, float sparsity) {
        llama_context_params p = llama_context_default_params();
        p.n_seq_max       = c.n_seq;
        p.n_ctx           = (c.depth + c.n_tokens + WARM_UP + o.reps + 255) / 256 * 256 * c.n_seq;
        p.n_batch         = std::max(c.total(), 64);
        p.n_ubatch        = c.decodes() ? 64 : 2048;
        p.n_threads       = o.n_threads;
        p.n_threads_batch = o.n_threads;
        p.type_k = p.type_v = type_of(kv);
        p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
        p.offload_kqv     = !on_cpu;
        p.op_offload      = !on_cpu;
        p.kv_unified      = false;
        p.swa_full        = false; // as llama.cpp's own tools have it
        p.no_perf         = true;
        if (sparsity >= 0.0f) {
            p.duo.enabled  = true;
            p.duo.sparsity = sparsity;
            p.duo.gates    = gates.c_str();
        }
        quiet = true;
        context_ptr ctx(llama_init_from_model(model.get(), p), llama_free);
        quiet = false;
        if (ctx && !on_cpu) {
            // a step still needs room: one that finds none ends the process
            size_t free = 0, total = 0;
            ggml_backend_dev_memory(dev, &free, &total);
            if (free < (1ull << 30) + (c.decodes() ? 0 : 1ull << 30)) {
                ctx.reset();
            }
        }
        if (ctx) {
            fill_rows(ctx.get());
        }
        return ctx;
    }

    void hold(llama_context * ctx, const bench_case & c) {
        llama_memory_clear(llama_get_memory(ctx), false);
        mark_held(ctx, c.depth, c.n_seq);
    }

    // Decoding goes on from where the last step ended; prefill does the same piece again.
    void step(llama_context * ctx, const bench_case & c, int i, timing & t) {
        if (!c.decodes() && i > 0) {
            hold(ctx, c);
        }
        llama_batch batch = make_batch(c.n_tokens, c.depth + (c.decodes() ? i : 0), c.n_seq);
        const int warm_up = c.decodes() ? WARM_UP : 1;
        const cuda_calls before = count_cuda_calls();
        const double start = now();
        if (llama_decode(ctx, batch) != 0) {
            fprintf(stderr, "bench-model: decoding failed\n");
            exit(1);
        }
        llama_synchronize(ctx);
        const double s = now() - start;
        const cuda_calls calls = count_cuda_calls() - before;
        if (i >= warm_up) {
            t.seconds.push_back(s);
            t.calls.kernels  += calls.kernels;
            t.calls.captures += calls.captures;
            t.calls.graphs   += calls.graphs;
        }
        const float * logits = llama_get_logits_ith(ctx, -1);
        t.logits.assign(logits, logits + shape.n_vocab);
        t.tokens.push_back(int(std::max_element(t.logits.begin(), t.logits.end()) - t.logits.begin()));
        llama_batch_free(batch);
    }

    // The contexts take turns; a null one is left out.
    void interleave(const bench_case & c, const std::string & kv, llama_context * a, timing & ta, llama_context * b, timing & tb) {
        const int n = c.decodes() ? WARM_UP + o.reps : 1 + std::max(5, o.reps / 10);
        const double start = now();
        for (auto [ctx, t] : { std::make_pair(a, &ta), std::make_pair(b, &tb) }) {
            if (ctx) {
                hold(ctx, c);
                t->size = duo_kv_size_of(ctx);
                t->work = work_of(ctx, type_of(kv), type_of(kv), c.depth);
            }
        }
        for (int i = 0; i < n && (i < WARM_UP + 5 || now() - start < 20); ++i) {
            for (auto [ctx, t] : { std::make_pair(a, &ta), std::make_pair(b, &tb) }) {
                if (ctx) {
                    step(ctx, c, i, *t);
                }
            }
        }
    }

    void measure(const bench_case & c, const std::string & text, const std::string & kv, float sparsity, context_ptr & stock, bool & stock_fits,
                 std::unique_ptr<timing> & stock_alone) {
        timing ts, td;
        if (!stock && stock_fits && !stock_alone) {
            stock = make(c, kv, -1.0f);
            stock_fits = bool(stock);
        }
        context_ptr duo = make(c, kv, sparsity);
        bool beside = stock && duo;
        if (stock && !duo) {
            // alone, then; and stock alone once for all sparsities
            if (!stock_alone) {
                stock_alone = std::make_unique<timing>();
                timing none;
                interleave(c, kv, stock.get(), *stock_alone, nullptr, none);
            }
            stock.reset();
            duo = make(c, kv, sparsity);
        }
        interleave(c, kv, stock.get(), ts, duo.get(), td);
        if (!beside && stock_alone) {
            ts = *stock_alone;
        }
        if (td.seconds.empty() && ts.seconds.empty()) {
            note("%s %s %g: neither fits", text.c_str(), kv.c_str(), sparsity);
            left_out.push_back(text + " " + kv + " does not fit");
            return;
        }
        report(c, kv, sparsity, ts, td, beside);
    }

    // What a step of this case takes at depth 0.
    double & at_zero(const bench_case & c, const std::string & kv, float sparsity) { return zeros[{ c.name, kv, sparsity }]; }

    void report(const bench_case & c, const std::string & kv, float sparsity, const timing & ts, const timing & td, bool beside) {
        struct side {
            double s, attention = 0.0, share = 0.0, teraflops = 0.0;
            uint64_t bytes;
        };
        const auto evaluate = [&](const timing & t, bool is_stock) {
            side x = { t.seconds.empty() ? 0.0 : median(t.seconds), 0, 0, 0, 0 };
            if (x.s == 0.0) {
                return x;
            }
            double & zero = at_zero(c, kv, is_stock ? -1.0f : sparsity);
            if (c.depth == 0) {
                zero = x.s;
            } else if (zero > 0.0) {
                x.attention = x.s - zero;
                x.bytes     = t.work.bytes;
                x.share     = c.decodes() ? x.bytes / x.attention / bandwidth : 0.0;
                x.teraflops = t.work.flop * c.total() / x.attention / 1e12;
            }
            return x;
        };
        const side s = evaluate(ts, true), d = evaluate(td, false);
        const std::string agree = sparsity == 0.0f && beside ? agreement(ts, td) : "null";
        const std::string label = c.name;
        const auto number = [](double x, const char * form) {
            char buf[64];
            snprintf(buf, sizeof(buf), form, x);
            return x > 0.0 ? std::string(buf) : std::string("null");
        };
        const auto per_second = [&](const side & x) { return x.s > 0.0 ? c.total() / x.s : 0.0; };
        std::string row = "{ \"case\": \"" + label + "\", \"depth\": " + std::to_string(c.depth) + ", \"kv\": \"" + kv + "\", \"sparsity\": " + number(sparsity + 1e-9, "%.2f") +
            ", \"batch\": " + std::to_string(c.n_seq) + ", \"tokens\": " + std::to_string(c.total()) +
            ", \"stockMs\": " + number(s.s * 1e3, "%.4f") + ", \"duoMs\": " + number(d.s * 1e3, "%.4f") +
            ", \"stockTokensPerSecond\": " + number(per_second(s), "%.2f") + ", \"duoTokensPerSecond\": " + number(per_second(d), "%.2f") +
            ", \"bandwidthShare\": " + number(d.share, "%.3f") + ", \"stockBandwidthShare\": " + number(s.share, "%.3f") +
            ", \"timesStock\": " + number(s.s > 0 && d.s > 0 ? s.s / d.s : 0, "%.3f") +
            ", \"attentionTimesStock\": " + number(s.attention > 0 && d.attention > 0 ? s.attention / d.attention : 0, "%.3f") +
            ", \"stockAttentionMs\": " + number(s.attention * 1e3, "%.4f") + ", \"duoAttentionMs\": " + number(d.attention * 1e3, "%.4f") +
            ", \"stockBytes\": " + std::to_string(s.bytes) + ", \"duoBytes\": " + std::to_string(d.bytes) +
            ", \"stockAttentionTeraflops\": " + number(s.teraflops, "%.1f") + ", \"duoAttentionTeraflops\": " + number(d.teraflops, "%.1f") +
            ", \"duoCacheBytes\": " + std::to_string(td.size.total_bytes) + ", \"fullCacheBytes\": " + std::to_string(std::max(td.size.full_bytes, ts.size.full_bytes)) +
            ", \"sideBySide\": " + (beside ? "true" : "false") + ", \"steps\": " + std::to_string(std::max(ts.seconds.size(), td.seconds.size())) +
            ", \"stockCalls\": " + calls(ts) + ", \"duoCalls\": " + calls(td) + ", \"agreement\": " + agree + " }";
        rows.push_back(row);
        if (!o.out.empty()) {
            std::ofstream(o.out + ".part") << document();
            rename((o.out + ".part").c_str(), o.out.c_str());
        }
        if (!o.json) {
            printf("%-12s %8d %-6s %8.2f  %9.3f %9.3f %7.3f  %9.1f %9.1f %7.3f %7.2f  %6.0f%% %6.0f%%  %s%s\n", label.c_str(), c.depth, kv.c_str(), sparsity, s.s * 1e3, d.s * 1e3,
                    s.s > 0 && d.s > 0 ? s.s / d.s : 0.0, per_second(s), per_second(d), d.attention * 1e3, d.attention > 0 ? s.attention / d.attention : 0.0, 100 * d.share, 100 * s.share,
                    c.decodes() ? ("calls " + calls(td)).c_str() : (number(d.teraflops, "%.0f") + " TFLOP/s, stock " + number(s.teraflops, "%.0f")).c_str(),
                    agree == "null" ? "" : (" " + agree).c_str());
            fflush(stdout);
        }
        note("%s@%d %s %g: stock %s ms, duo %s ms%s", label.c_str(), c.depth, kv.c_str(), sparsity, number(s.s * 1e3, "%.3f").c_str(), number(d.s * 1e3, "%.3f").c_str(),
                beside ? "" : ", not side by side");
    }

    // Of the timed steps: kernels launched one by one, graphs captured, graphs launched.
    static std::string calls(const timing & t) {
        return "{ \"kernels\": " + std::to_string(t.calls.kernels) + ", \"captures\": " + std::to_string(t.calls.captures) + ", \"graphs\": " + std::to_string(t.calls.graphs) + " }";
    }

    // Of two contexts with the same rows.
    static std::string agreement(const timing & a, const timing & b) {
        double diff = 0.0, norm = 0.0;
        for (size_t i = 0; i < a.logits.size(); ++i) {
            diff += double(a.logits[i] - b.logits[i]) * (a.logits[i] - b.logits[i]);
            norm += double(a.logits[i]) * a.logits[i];
        }
        int same = 0;
        for (size_t i = 0; i < a.tokens.size(); ++i) {
            same += a.tokens[i] == b.tokens[i];
        }
        char buf[128];
        snprintf(buf, sizeof(buf), "{ \"sameTokens\": %d, \"of\": %zu, \"logitsError\": %.2e }", same, a.tokens.size(), std::sqrt(diff / norm));
        return buf;
    }

    static std::string driver() {
        std::ifstream file("/proc/driver/nvidia/version");
        std::smatch m;
        for (std::string line; std::getline(file, line);) {
            if (std::regex_search(line, m, std::regex("[0-9]+\\.[0-9]+(\\.[0-9]+)?"))) {
                return m[0];
            }
        }
        return "unknown";
    }

    std::string document() const {
        const char * commit = getenv("COMMIT");
        std::string text = "{\n  \"gpu\": \"" + std::string(on_cpu ? "none" : ggml_backend_dev_description(dev)) + "\", \"driver\": \"" + (on_cpu ? "none" : driver()) + "\", \"commit\": \"" +
            (commit ? commit : "unknown") + "\", \"shape\": \"" + o.shape + "\", \"smaller\": \"" + shape.note + "\", \"weights\": \"q8_0\", \"queriesPerKvHead\": " + std::to_string(shape.n_head / n_global_heads) + ", \"copyBytesPerSecond\": " + std::to_string(int64_t(bandwidth)) + ",\n  \"leftOut\": [";
        for (size_t i = 0; i < left_out.size(); ++i) {
            text += (i ? ", \"" : "\"") + left_out[i] + "\"";
        }
        text += "],\n  \"rows\": [\n";
        for (size_t i = 0; i < rows.size(); ++i) {
            text += "    " + rows[i] + (i + 1 < rows.size() ? ",\n" : "\n");
        }
        return text + "  ]\n}\n";
    }

public:
    static bool quiet;

private:
    const options           & o;
    const bench_shape shape;
    const std::string gates;
    const double      began;

    int64_t n_global_heads = 1; // KV heads of a layer that sees the whole context

    ggml_backend_dev_t dev = nullptr;
    bool               on_cpu = true;
    double             bandwidth = 0.0; // of copies within the device
    llama_model_ptr_t  model;

    std::map<std::tuple<std::string, std::string, float>, double> zeros;
    std::vector<std::string> rows;
    std::vector<std::string> left_out;
};

bool bench::quiet = false;

} // namespace

int main(int argc, char ** argv) {
    const options o = parse(argc, argv);
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level == GGML_LOG_LEVEL_ERROR && !bench::quiet) {
            fputs(text, stderr);
        }
    }, nullptr);
    llama_backend_init();
    bench(o).run();
    return 0;
}
