#include "bench-duo.h"

#include "bench-memory.h"
#include "bench-progress.h"
#include "bench-synthetic.h"
#include "copy-bandwidth.h"
#include "shapes.h"

#include "arg.h"
#include "common.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <thread>

namespace {

struct sweep_flag {
    common_arg               arg;
    std::vector<std::string> values; // as numbers are written in every format

    enum { TEXT, COUNT, NUMBER } kind;

    std::string name()  const { return arg.args.front(); }
    std::string field() const {
        std::string field = name().substr(2);
        std::replace(field.begin(), field.end(), '-', '_');
        return field;
    }
};

// The other tools' flags, in their order.
std::vector<sweep_flag> & flags() {
    static std::vector<sweep_flag> all = [] {
        std::vector<sweep_flag> flags;
        common_duo_add_args([&](const common_arg & arg) {
            const std::string hint = arg.value_hint;
            flags.push_back({ arg, {}, hint == "FILE" || hint == "SIZE" ? sweep_flag::TEXT : hint == "N" ? sweep_flag::COUNT : sweep_flag::NUMBER });
        });
        return flags;
    }();
    return all;
}

sweep_flag * find(const std::string & field) {
    const auto it = std::find_if(flags().begin(), flags().end(), [&](const sweep_flag & flag) { return flag.field() == field; });
    return it == flags().end() ? nullptr : &*it;
}

std::vector<std::string> split_counts(const sweep_flag & flag, const std::string & text, bench_duo_read_counts read_counts) {
    std::vector<std::string> counts;
    try {
        for (const int count : read_counts(text, /*allow_negative=*/false)) {
            counts.push_back(std::to_string(count));
        }
    } catch (const std::exception &) {
        counts.clear();
    }
    if (counts.empty()) {
        throw std::invalid_argument(string_format("%s is \"%s\"; expected integers with commas between, or a range", flag.name().c_str(), text.c_str()));
    }
    return counts;
}

void add_values(sweep_flag & flag, const std::string & text, bench_duo_read_counts read_counts) {
    const bool counts = flag.kind == sweep_flag::COUNT;
    for (const std::string & value : counts ? split_counts(flag, text, read_counts) : string_split<std::string>(text, ',')) {
        common_params checked;
        flag.arg.handler_string(checked, value);
        flag.values.push_back(flag.kind == sweep_flag::NUMBER ? string_format("%.15g", std::stod(value)) : value);
    }
}

std::string last_error;

[[noreturn]] void end(const std::string & error) {
    fprintf(stderr, "error: %s\n", error.c_str());
    exit(1);
}

// --- --shape and --fill ---

bench_models models;
bool         fills = false;

bool measures() { return fills || !models.empty(); }

std::map<ggml_backend_dev_t, double> bandwidths; // bytes a second, of copies

// Of the test that is to come or at hand.
llama_context_params planned_params;
uint32_t             stock_context = 0;
std::string          report;

enum field_kind { TEXT_FIELD, COUNT_FIELD, NUMBER_FIELD };

// What bench_duo_measure adds, in its order.
const std::vector<std::pair<std::string, field_kind>> measured_fields = {
    { "memory_by_device",  TEXT_FIELD   },
    { "weights_bytes",     COUNT_FIELD  },
    { "cache_bytes",       COUNT_FIELD  },
    { "compute_bytes",     COUNT_FIELD  },
    { "peak_bytes",        COUNT_FIELD  },
    { "ms_per_token",      NUMBER_FIELD },
    { "bytes_per_token",   COUNT_FIELD  }, // null where tokens are not generated one by one, and so the others of bandwidth
    { "bytes_per_second",  NUMBER_FIELD },
    { "copy_bandwidth",    NUMBER_FIELD },
    { "bandwidth_share",   NUMBER_FIELD },
    { "stock_max_context", COUNT_FIELD  },
};

bool is_measured(const std::string & field, field_kind kind) {
    return measures() && std::find(measured_fields.begin(), measured_fields.end(), std::make_pair(field, kind)) != measured_fields.end();
}

// In lines as long as those of the --duo-* flags.
void print_usage_of(const char * flag, const std::string & text) {
    constexpr size_t n_right = 72;
    std::string line;
    const auto flush = [&] {
        printf("  %-50s%s\n", flag, line.c_str());
        flag = "";
        line.clear();
    };
    for (const std::string & word : string_split<std::string>(text, ' ')) {
        if (!line.empty() && line.size() + 1 + word.size() > n_right) {
            flush();
        }
        line += (line.empty() ? "" : " ") + word;
    }
    flush();
}

std::string gib(uint64_t bytes) { return string_format("%.2f GiB", double(bytes) / (1 << 30)); }

bool           shows_progress = false;
bench_progress progress; // of what is read at hand

} // namespace

void bench_duo_print_usage() {
    print_usage_of("--shape NAME[:TYPE]", "in place of a model: one of random weights, in a temporary file, or several with commas between; " + shape_names() + "; TYPE is q8_0, q4_0 or f16 (default: q8_0)");
    print_usage_of("--fill synthetic", "the depth (-d) is not computed, but the cache filled with random rows; with this flag and with --shape memory, bandwidth and stock's "
            "largest context are told, too");
    print_usage_of("--progress", "with --shape, --fill or a --duo-* flag: below each run of a prompt, a warm-up or a depth that is computed, a line for each sixteenth of its tokens, with "
            "the time that is left");
    for (const sweep_flag & flag : flags()) {
        // what a flag's help begins with in the other tools, and where the rest begins
        constexpr size_t n_left = 40;
        for (const std::string & line : string_split<std::string>(flag.arg.to_string(), '\n')) {
            if (line.size() > n_left) {
                printf("  %-50s%s\n", line.substr(0, n_left).c_str(), line.substr(n_left).c_str());
            }
        }
    }
}

bool bench_duo_parse(int argc, char ** argv, int & i, bench_duo_read_counts read_counts) {
    std::string field = argv[i];
    if (field == "--progress") { // bench's own flag, which it has not read yet
        shows_progress = true;
    }
    if (field.compare(0, 2, "--") != 0) {
        return false;
    }
    if (field == "--shape" || field == "--fill") {
        if (++i >= argc) {
            throw std::invalid_argument(field + " needs a value");
        }
        const std::string value = argv[i];
        if (field == "--shape") {
            models.add(value);
        } else if (value == "synthetic") {
            fills = true;
        } else {
            throw std::invalid_argument(string_format("--fill is \"%s\"; expected synthetic", value.c_str()));
        }
        return true;
    }
    field.erase(0, 2);
    std::replace(field.begin(), field.end(), '-', '_');
    sweep_flag * flag = find(field);
    if (!flag) {
        return false;
    }
    if (++i >= argc) {
        throw std::invalid_argument(flag->name() + " needs a value");
    }
    add_values(*flag, argv[i], read_counts);
    return true;
}

void bench_duo_read_variables(bench_duo_read_counts read_counts, std::vector<std::string> & model_paths) {
    for (sweep_flag & flag : flags()) {
        std::string text;
        if (!flag.arg.get_value_from_env(text)) {
            continue;
        }
        if (!flag.values.empty()) {
            fprintf(stderr, "warn: %s environment variable is set, but will be overwritten by command line argument %s\n", flag.arg.env, flag.name().c_str());
            continue;
        }
        try {
            add_values(flag, text, read_counts);
        } catch (const std::exception & e) {
            fprintf(stderr, "error while handling environment variable \"%s\": %s\n", flag.arg.env, e.what());
            exit(1);
        }
    }
    try {
        for (const std::string & path : models.paths()) {
            model_paths.push_back(path);
        }
    } catch (const std::exception & e) {
        end(e.what());
    }
}

std::vector<bench_duo_values> bench_duo_combinations() {
    std::vector<std::pair<common_params, std::vector<std::string>>> all(1);
    for (const sweep_flag & flag : flags()) {
        if (flag.values.empty()) {
            continue;
        }
        const auto before = std::move(all);
        all.clear();
        for (const auto & [params, texts] : before) {
            for (const std::string & value : flag.values) {
                all.push_back({ params, texts });
                flag.arg.handler_string(all.back().first, value);
                all.back().second.push_back(value);
            }
        }
    }
    std::vector<bench_duo_values> result;
    for (const auto & [params, texts] : all) {
        result.push_back({ params.duo, texts });
        if (fills) {
            result.back().texts.push_back("synthetic");
        }
    }
    return result;
}

void bench_duo_begin(const std::vector<llama_flash_attn_type> & flash_attns, const std::vector<llama_split_mode> & split_modes) {
    for (const bench_duo_values & values : bench_duo_combinations())
    for (const llama_flash_attn_type flash_attn : flash_attns)
    for (const llama_split_mode split_mode : split_modes) {
        common_params params;
        params.duo             = values.duo;
        params.flash_attn_type = flash_attn;
        params.split_mode      = split_mode;
        try {
            common_duo_check_options(params);
        } catch (const std::exception & e) {
            end(e.what());
        }
        if (fills && split_mode == LLAMA_SPLIT_MODE_TENSOR) {
            end("--fill synthetic cannot be used with -sm tensor, where a row of the cache lies on several devices: use -sm layer");
        }
    }
    if (!measures()) {
        return;
    }
    try {
        models.write();
    } catch (const std::exception & e) {
        end(std::string(e.what()) + ". Temporary files are in the folder that the variable TMPDIR names");
    }
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        ggml_backend_dev_t dev = ggml_backend_dev_get(i);
        bandwidths[dev] = copy_bandwidth(dev, int(std::thread::hardware_concurrency()));
    }
    bench_memory_begin();
}

void bench_duo_plan(const std::string & model, const llama_model_params & mparams, const llama_context_params & cparams) {
    if (!measures()) {
        return;
    }
    planned_params = cparams;
    stock_context  = 0;
    const bench_planner planner(model, mparams);
    const auto memory = planner.plan(cparams);
    if (!memory) {
        return; // loading the model, or making the context, says why
    }
    stock_context = planner.largest_stock_context(cparams);
    const bench_memory * lacking = bench_planner::short_of(*memory);
    if (!lacking) {
        return;
    }
    std::string would = "llama.cpp's own cache fits up to a context of " + std::to_string(stock_context);
    if (cparams.duo.enabled) {
        const auto sparsity = planner.smallest_sparsity(cparams);
        would = sparsity ? string_format("the smallest --duo-sparsity that fits is %.2f", *sparsity) : "it does not fit with every head streaming either";
    }
    end(string_format("a context of %u tokens needs %s of %s, where %s are free; %s", cparams.n_ctx, gib(lacking->needed()).c_str(), ggml_backend_dev_name(lacking->dev),
            gib(lacking->free).c_str(), would.c_str()));
}

bool bench_duo_fill(llama_context * ctx, int depth) {
    if (!fills) {
        return false;
    }
    const std::string reason = bench_cannot_fill(ctx);
    if (!reason.empty()) {
        end("--fill synthetic cannot fill " + reason);
    }
    try {
        bench_fill(ctx, depth);
    } catch (const std::exception & e) {
        end(std::string("--fill synthetic: ") + e.what());
    }
    return true;
}

int bench_duo_tell_progress(llama_context * ctx, int n_done, int n_tokens) {
    if (!shows_progress || (!measures() && bench_duo_columns().empty())) {
        return n_done;
    }
    if (n_done == 0) {
        progress = bench_progress(n_tokens);
    } else if (progress.is_due(n_done)) {
        llama_synchronize(ctx); // what was handed to a device is not done yet
        fprintf(stderr, "llama-bench: %s\n", progress.tell(n_done).c_str());
    }
    return n_done;
}

void bench_duo_measure(bench_duo_values & values, const llama_context * ctx, int n_prompt, int n_gen, int n_depth, uint64_t avg_ns) {
    if (!measures()) {
        return;
    }
    bench_memory all = {};
    uint64_t     peaks = 0; // of the GPUs together, else of the CPU
    std::string  by_device;
    const auto memory = bench_memory_of(ctx);
    const bench_memory * most = &memory.back(); // where most of what a token reads is
    report = string_format("\n%d tokens of a prompt and %d generated at a depth of %d:\n", n_prompt, n_gen, n_depth);
    for (const bench_memory & m : memory) {
        all.weights += m.weights;
        all.cache   += m.cache;
        all.compute += m.compute;
        most = m.weights + m.cache > most->weights + most->cache ? &m : most;
        const uint64_t peak = bench_memory_peak(m.dev);
        peaks += m.on_cpu() && memory.size() > 1 ? 0 : peak;
        const char * name = ggml_backend_dev_name(m.dev);
        by_device += string_format("%s%s: weights %zu, cache %zu, compute %zu, peak %zu of %zu", by_device.empty() ? "" : "; ", name, size_t(m.weights), size_t(m.cache),
                size_t(m.compute), size_t(peak), size_t(m.total));
        report += string_format("%-24s weights %s + cache %s + compute %s = %s; peak %s of %s\n", name, gib(m.weights).c_str(), gib(m.cache).c_str(), gib(m.compute).c_str(),
                gib(m.needed()).c_str(), gib(peak).c_str(), gib(m.total).c_str());
    }
    const double ms = double(avg_ns) / 1e6 / (n_prompt + n_gen);
    report += string_format("%-24s %.3f ms\n", "a token", ms);
    values.texts.insert(values.texts.end(), { by_device, std::to_string(all.weights), std::to_string(all.cache), std::to_string(all.compute), std::to_string(peaks),
            string_format("%.6g", ms) });

    if (n_prompt == 0) {
        const uint64_t weights = bench_weights_read(llama_get_model(ctx));
        const uint64_t rows    = bench_rows_read(ctx, planned_params.type_k, planned_params.type_v, n_depth + n_gen / 2);
        const double   rate    = double(weights + rows) / (ms / 1e3);
        const double   copies  = bandwidths[most->dev];
        report += string_format("%-24s %.3f GB: weights %.3f, K and V rows %.3f\n", "read for it", double(weights + rows) / 1e9, double(weights) / 1e9, double(rows) / 1e9);
        report += string_format("%-24s %.1f GB/s", "bandwidth", rate / 1e9);
        report += copies > 0 ? string_format(", %.0f%% of the %.1f GB/s that a copy within %s reads and writes\n", 100 * rate / copies, copies / 1e9, ggml_backend_dev_name(most->dev)) : "\n";
        values.texts.insert(values.texts.end(), { std::to_string(weights + rows), string_format("%.6g", rate), copies > 0 ? string_format("%.6g", copies) : "null",
                copies > 0 ? string_format("%.4f", rate / copies) : "null" });
    } else {
        values.texts.insert(values.texts.end(), 4, "null");
    }
    report += string_format("%-24s %u tokens in the same memory, with %s K and %s V\n\n", "stock's largest context", stock_context, ggml_type_name(planned_params.type_k),
            ggml_type_name(planned_params.type_v));
    values.texts.push_back(std::to_string(stock_context));
}

void bench_duo_print_report() {
    fputs(report.c_str(), stderr);
    report.clear();
}

std::vector<std::string> bench_duo_columns() {
    std::vector<std::string> columns;
    for (const sweep_flag & flag : flags()) {
        if (!flag.values.empty()) {
            columns.push_back(flag.field());
        }
    }
    if (fills) {
        columns.push_back("fill");
    }
    return columns;
}

std::vector<std::string> bench_duo_fields() {
    std::vector<std::string> fields = bench_duo_columns();
    if (measures()) {
        for (const auto & [name, _] : measured_fields) {
            fields.push_back(name);
        }
    }
    return fields;
}

std::vector<std::string> bench_duo_append(std::vector<std::string> list, const std::vector<std::string> & ours) {
    list.insert(list.end(), ours.begin(), ours.end());
    return list;
}

bool bench_duo_is_count(const std::string & field) {
    const sweep_flag * flag = find(field);
    return (flag && flag->kind == sweep_flag::COUNT) || is_measured(field, COUNT_FIELD);
}

bool bench_duo_is_number(const std::string & field) {
    const sweep_flag * flag = find(field);
    return (flag && flag->kind == sweep_flag::NUMBER) || is_measured(field, NUMBER_FIELD);
}

void bench_duo_keep_error(ggml_log_level level, const char * text) {
    static bool continues = false;
    continues = level == GGML_LOG_LEVEL_ERROR || (level == GGML_LOG_LEVEL_CONT && continues);
    if (!continues || (bench_duo_columns().empty() && !measures())) {
        return;
    }
    last_error = level == GGML_LOG_LEVEL_CONT ? last_error + text : text;
}

void bench_duo_print_error() {
    fputs(last_error.c_str(), stderr);
}
