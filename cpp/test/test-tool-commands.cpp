// llama.cpp's tools with the --duo-* flags, as a shell calls them: this program is them, each in a process of its own.
#include "check.h"
#include "fake-device.h"
#include "random-model.h"

#include "../tools/bench-progress.h"

#include "llama.h"
#include "log.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

int llama_batched_bench(int argc, char ** argv);
int llama_bench(int argc, char ** argv);
int llama_completion(int argc, char ** argv);
int llama_fit_params(int argc, char ** argv);
int llama_perplexity(int argc, char ** argv);

namespace {

using json = nlohmann::ordered_json;

const std::map<std::string, int (*)(int, char **)> tools = {
    { "batched-bench", llama_batched_bench },
    { "bench",         llama_bench },
    { "completion",    llama_completion },
    { "fit-params",    llama_fit_params },
    { "perplexity",    llama_perplexity },
};

const std::vector<std::string> duo_flags = { "gates", "sparsity", "threshold", "sink", "recent", "chunk" };

// Where this variable is set, a tool finds a device with so many free bytes.
constexpr const char * device_variable = "LLAMA_DUO_TEST_DEVICE_BYTES";

std::string self, needle, gates; // paths

// --- calling them ---

struct ended {
    int         status;
    std::string out, err;

    bool says(const std::string & text) const { return (out + err).find(text) != std::string::npos; }
};

std::string read_file(const std::string & path) {
    std::ifstream in(path);
    return { std::istreambuf_iterator<char>(in), {} };
}

// Words as a shell has them: "VARIABLE=value" before the tool, its arguments behind it.
ended call(const std::string & variables, const std::string & tool, const std::string & arguments) {
    const std::string base = std::filesystem::temp_directory_path() / ("llama-duo-test-tool-" + std::to_string(getpid()));
    const std::string line = variables + " '" + self + "' --tool " + tool + " " + arguments + " > '" + base + ".out' 2> '" + base + ".err' < /dev/null";
    const int status = system(line.c_str());
    ended result { WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(base + ".out"), read_file(base + ".err") };
    remove((base + ".out").c_str());
    remove((base + ".err").c_str());
    return result;
}

ended call(const std::string & tool, const std::string & arguments) {
    return call("", tool, arguments);
}

std::vector<std::string> split(const std::string & text, char by) {
    std::vector<std::string> parts;
    std::istringstream in(text);
    for (std::string part; std::getline(in, part, by);) {
        parts.push_back(part);
    }
    return parts;
}

// --- bench ---

const std::string short_bench = "-p 8 -n 0 -r 1 -t 1 --no-warmup";

std::string bench_needle() { return "-m '" + needle + "' " + short_bench; }

std::vector<json> rows_of(const ended & run) {
    CHECK_EQ(run.status, 0);
    std::vector<json> rows;
    for (const std::string & line : split(run.out, '\n')) {
        rows.push_back(json::parse(line));
    }
    return rows;
}

std::vector<std::string> keys_of(const json & object) {
    std::vector<std::string> keys;
    for (const auto & [key, value] : object.items()) {
        keys.push_back(key);
    }
    return keys;
}

// Columns where flags are given, in every format; else none, and the same as ever before ours.
void test_bench_columns() {
    for (const std::string format : { "md", "csv", "json", "jsonl", "sql" }) {
        const ended plain = call("bench", bench_needle() + " -o " + format);
        CHECK_EQ(plain.status, 0);
        CHECK(!plain.says("duo"));
    }
    const std::string flags = " --duo-gates auto --duo-sparsity .5 --duo-sink 04 --duo_recent 32";

    const std::string plain = split(call("bench", bench_needle() + " -o csv").out, '\n')[0];
    const auto csv = split(call("bench", bench_needle() + flags + " -o csv").out, '\n');
    CHECK_EQ(csv.size(), 2u);
    CHECK_EQ(csv[0], plain + ",duo_gates,duo_sparsity,duo_sink,duo_recent");
    const std::string ends = R"(,"auto","0.5","4","32")";
    CHECK_EQ(csv[1].substr(csv[1].size() - ends.size()), ends);

    const auto keys = keys_of(rows_of(call("bench", bench_needle() + " -o jsonl"))[0]);
    for (const std::string format : { "jsonl", "json" }) {
        const ended run = call("bench", bench_needle() + flags + " -o " + format);
        const json row = format == "jsonl" ? rows_of(run)[0] : json::parse(run.out)[0];
        std::vector<std::string> ours;
        for (const std::string & key : keys_of(row)) {
            if (std::find(keys.begin(), keys.end(), key) == keys.end()) {
                ours.push_back(key);
            }
        }
        CHECK_EQ(json(ours).dump(), R"(["duo_gates","duo_sparsity","duo_sink","duo_recent"])");
        CHECK_EQ(row.size(), keys.size() + 4);
        CHECK_EQ(row["duo_gates"].dump() + row["duo_sparsity"].dump() + row["duo_sink"].dump() + row["duo_recent"].dump(), R"("auto"0.5432)");
    }

    const ended sql = call("bench", bench_needle() + flags + " -o sql");
    CHECK(sql.says("  stddev_ts REAL,\n  duo_gates TEXT,\n  duo_sparsity REAL,\n  duo_sink INTEGER,\n  duo_recent INTEGER\n);"));
    CHECK(sql.says("'auto', '0.5', '4', '32');"));

    const ended md = call("bench", bench_needle() + flags);
    CHECK(md.says("| duo_gates  | duo_sparsity |   duo_sink | duo_recent |            test |"));
    CHECK(md.says("| auto       |          0.5 |          4 |         32 |             pp8 |"));
}

// Every combination is measured, with what it says: the log tells which cache each has.
void test_bench_sweeps() {
    const ended run = call("bench", bench_needle() + " -o jsonl -v -d 16 --duo-gates '" + gates + "' --duo-sparsity 0,0.5 --duo-sparsity 1 --duo-recent 16-32*2");
    std::vector<std::string> found;
    for (const json & row : rows_of(run)) {
        found.push_back(row["duo_sparsity"].dump() + "/" + row["duo_recent"].dump());
    }
    CHECK_EQ(json(found).dump(), R"(["0/16","0/32","0.5/16","0.5/32","1/16","1/32"])");
    std::vector<std::string> caches;
    for (const std::string & line : split(run.err, '\n')) {
        int n_retrieval, n_streaming, sink, recent;
        const size_t at = line.find("retrieval heads x");
        if (at == std::string::npos || line.find("llama_kv_cache_duo: ") == std::string::npos) {
            continue;
        }
        CHECK_EQ(sscanf(line.c_str() + line.find("llama_kv_cache_duo: "), "llama_kv_cache_duo: %d retrieval heads x %*d cells, %d streaming heads x %*d cells (sink %d, recent %d",
                &n_retrieval, &n_streaming, &sink, &recent), 4);
        caches.push_back(std::to_string(n_retrieval) + "+" + std::to_string(n_streaming) + "/" + std::to_string(recent));
    }
    CHECK_EQ(json(caches).dump(), R"(["24+0/16","24+0/32","12+12/16","12+12/32","0+24/16","0+24/32"])");

    const auto by_threshold = rows_of(call("bench", bench_needle() + " -o jsonl --duo-gates '" + gates + "' --duo-threshold 0.5,1e-1 --duo-chunk 1,8"));
    CHECK_EQ(by_threshold.size(), 4u);
    CHECK_EQ(by_threshold[2]["duo_threshold"].dump() + "/" + by_threshold[2]["duo_chunk"].dump(), "0.1/1");
}

// Shares and sizes stay as they were written, and each context gets its own.
void test_bench_budgets() {
    const ended run = call("bench", bench_needle() + " -o jsonl -v --duo-gates '" + gates + "' --duo-budget 1.0,3MiB");
    const auto  rows = rows_of(run);
    CHECK_EQ(rows.size(), 2u);
    CHECK_EQ(rows[0]["duo_budget"].dump() + rows[1]["duo_budget"].dump(), R"("1.0""3MiB")");
    CHECK(run.says(": for 1.50 MiB: ") && run.says(": for 3.00 MiB: "));
}

void test_bench_refuses() {
    const struct {
        const char * arguments;
        const char * says;
    } cases[] = {
        { "--duo-sparsity 0,1.5",                     "--duo-sparsity is \"1.5\"; expected a number from 0 to 1" },
        { "--duo-sparsity 0.5x",                      "--duo-sparsity is \"0.5x\"" },
        { "--duo-sparsity 0,,1",                      "--duo-sparsity is \"\"" },
        { "--duo-threshold nan",                      "--duo-threshold is \"nan\"" },
        { "--duo-threshold inf",                      "--duo-threshold is \"inf\"; expected a number from 0 to 1" },
        { "--duo-sink -3",                            "--duo-sink is \"-3\"; expected integers" },
        { "--duo-recent 16,x",                        "--duo-recent is \"16,x\"" },
        { "--duo-recent 99999999999",                 "--duo-recent is \"99999999999\"" },
        { "--duo-chunk 8,0",                          "--duo-chunk is \"0\"; expected an integer of at least 1" },
        { "--duo-sparsity",                           "--duo-sparsity needs a value" },
        { "--duo-sparsity 1 -fa on,off",              "cannot be used with -fa off" },
        { "--duo-sparsity 1 -sm tensor",              "cannot be used with -sm tensor" },
        { "--duo-sparsity 0.5 --duo-threshold 0.5",   "cannot be used with both --duo-sparsity and --duo-threshold" },
        { "--duo-gates none.tsv",                     "none.tsv: no such file or folder" },
    };
    for (const auto & c : cases) {
        const ended run = call("bench", bench_needle() + " " + c.arguments);
        CHECK_EQ(run.status, 1);
        CHECK(run.err.find(c.says) != std::string::npos);
        if (run.err.find(c.says) == std::string::npos) {
            printf("%s: said \"%s\"\n", c.arguments, run.err.substr(0, 300).c_str());
        }
    }
    CHECK_EQ(call("bench", bench_needle() + " -fa off").status, 0); // which is nobody's business without
}

void test_bench_variables() {
    const auto rows = rows_of(call("LLAMA_ARG_DUO_SPARSITY=0,1 LLAMA_ARG_DUO_SINK=4", "bench", bench_needle() + " -o jsonl"));
    CHECK_EQ(rows.size(), 2u);
    CHECK_EQ(rows[1]["duo_sparsity"].dump() + rows[1]["duo_sink"].dump(), "14");

    const ended over = call("LLAMA_ARG_DUO_SPARSITY=0,1", "bench", bench_needle() + " -o jsonl --duo-sparsity 1");
    CHECK_EQ(rows_of(over).size(), 1u);
    CHECK(over.err.find("LLAMA_ARG_DUO_SPARSITY environment variable is set, but will be overwritten by command line argument --duo-sparsity") != std::string::npos);

    const ended wrong = call("LLAMA_ARG_DUO_SINK=x", "bench", bench_needle());
    CHECK_EQ(wrong.status, 1);
    CHECK(wrong.says("LLAMA_ARG_DUO_SINK\": --duo-sink is \"x\""));
}

// --- bench on random models and caches that nothing was computed for ---

// A folder for temporary files, in which nothing is to stay.
class temporary_folder {
public:
    temporary_folder() : name(std::filesystem::temp_directory_path() / ("llama-duo-test-tmp-" + std::to_string(getpid()))) { std::filesystem::create_directory(name); }
    ~temporary_folder() {
        CHECK(std::filesystem::is_empty(name));
        std::filesystem::remove_all(name);
    }

    std::string variable() const { return "TMPDIR='" + name.string() + "' "; }
    const std::filesystem::path & path() const { return name; }

private:
    std::filesystem::path name;
};

const std::string small_prompt = "--shape llama-3-8b-small -t 2 -r 1 --no-warmup -fa 1 -ctk q4_0 -ctv q4_0 -p 512 -n 0 ";
const std::string small_shape  = "--shape llama-3-8b-small -t 2 -r 1 --no-warmup -fa 1 -ctk q4_0 -ctv q4_0 -p 0 -n 2 ";

// What is told beside stock's columns, and that it is plausible.
void test_bench_shape() {
    const temporary_folder tmp;
    const auto stock_keys = keys_of(rows_of(call("bench", bench_needle() + " -o jsonl"))[0]);
    double seconds = 0; // that the last call took
    const auto row_of = [&](const std::string & more) {
        const auto begun = std::chrono::steady_clock::now();
        const auto rows = rows_of(call(tmp.variable(), "bench", small_shape + "-o jsonl " + more));
        seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
        return rows.empty() ? json() : rows[0];
    };
    const json empty = row_of("");
    const json stock = row_of("--fill synthetic -d 131072");
    const double fill_seconds = seconds; // of the whole program
    const json mixed = row_of("--fill synthetic -d 131072 --duo-sparsity 0.5 --duo-sink 128 --duo-recent 256");
    const auto prompts = rows_of(call(tmp.variable(), "bench", small_prompt + "-o jsonl"));
    if (empty.is_null() || stock.is_null() || mixed.is_null() || prompts.empty()) {
        return; // as rows_of has told
    }
    const double computed_seconds = prompts[0]["avg_ns"].get<double>() * 1e-9;
    printf("a depth of 131072 and a token take %.1f s, and a prompt of 512 is computed in %.1f s\n", fill_seconds, computed_seconds);
    CHECK(fill_seconds < 256 * computed_seconds);
    printf("a token at 131072 of a synthetic cache takes %s ms, and %s ms where half of the heads stream\n", stock["ms_per_token"].dump().c_str(), mixed["ms_per_token"].dump().c_str());

    std::vector<std::string> ours;
    for (const std::string & key : keys_of(mixed)) {
        if (std::find(stock_keys.begin(), stock_keys.end(), key) == stock_keys.end()) {
            ours.push_back(key);
        }
    }
    CHECK_EQ(json(ours).dump(), R"(["duo_sparsity","duo_sink","duo_recent","fill","memory_by_device","weights_bytes","cache_bytes","compute_bytes","peak_bytes","ms_per_token",)"
                                R"("bytes_per_token","bytes_per_second","copy_bandwidth","bandwidth_share","stock_max_context"])");
    CHECK_EQ(mixed["fill"].dump() + mixed["n_depth"].dump(), R"("synthetic"131072)");
    CHECK(mixed["model_filename"].get<std::string>().find("llama-3-8b-small-q8_0.gguf") != std::string::npos);

    // 2 layers of 8 KV heads, and rows of K and V of 128 values
    const double row = 2 * 72;
    const auto is_about = [](const json & bytes, double expected) { return std::abs(bytes.get<double>() / expected - 1) < 0.005; };
    CHECK(is_about(stock["cache_bytes"], 2 * 8 * row * (131072 + 256)));
    CHECK(is_about(mixed["cache_bytes"], 2 * 4 * row * (131072 + 256 + 128 + 256 + 512))); // sinks, window and a ubatch
    const double weights = empty["bytes_per_token"].get<double>() - 2 * 8 * row; // and the row of the token before
    CHECK_EQ(stock["bytes_per_token"].get<double>(), weights + 2 * 8 * row * (131072 + 1));
    CHECK_EQ(mixed["bytes_per_token"].get<double>(), weights + 2 * 4 * row * (131072 + 1 + 128 + 256));
    CHECK(weights < stock["model_size"].get<double>() && weights > 0.5 * stock["model_size"].get<double>()); // the embedding is a third of it
    for (const json & r : { stock, mixed, empty }) {
        CHECK(std::abs(r["ms_per_token"].get<double>() - r["avg_ns"].get<double>() / 2e6) < 1e-3 * r["ms_per_token"].get<double>());
        CHECK(r["weights_bytes"].get<double>() > 0 && r["compute_bytes"].get<double>() > 0 && r["copy_bandwidth"].get<double>() > 0);
        CHECK(r["peak_bytes"].get<double>() >= r["cache_bytes"].get<double>());
        CHECK(std::abs(r["bandwidth_share"].get<double>() * r["copy_bandwidth"].get<double>() / r["bytes_per_second"].get<double>() - 1) < 0.01);
        CHECK_EQ(r["stock_max_context"].get<int64_t>() % 256, 0);
        CHECK(r["stock_max_context"].get<int64_t>() > 131072);
        CHECK(r["memory_by_device"].get<std::string>().find("CPU: weights " + r["weights_bytes"].dump()) == 0);
    }
    CHECK(empty.find("fill") == empty.end());

    // matrices that the CPU has rearranged are no weights besides
    const json repacked = row_of("--shape llama-3-8b-small:q4_0");
    for (const json & r : { empty, repacked }) {
        CHECK(!r.is_null() && is_about(r["weights_bytes"], r["model_size"].get<double>()));
    }

    // heads with windows of their own; half of each layer's stream
    const std::string windows = (std::filesystem::temp_directory_path() / ("llama-duo-test-windows-" + std::to_string(getpid()) + ".json")).string();
    const std::string layer_gates = "[0,1,0,1,0,1,0,1]";
    std::ofstream(windows) << R"({"llamaDuoPattern":2,"layers":2,"kvHeads":8,"gates":[)" + layer_gates + "," + layer_gates +
            R"(],"sink":64,"recent":256,"windows":[[256,1,1024,1,4096,1,256,1],[256,1,256,1,256,1,256,1]]})";
    const json own = row_of("--fill synthetic -d 131072 --duo-sparsity 0.5 --duo-gates '" + windows + "'");
    remove(windows.c_str());
    CHECK(!own.is_null() && own["bytes_per_token"].get<double>() == weights + row * (2 * 4 * (131072 + 1 + 64) + 6 * 256 + 1024 + 4096));

    // every format, and prompts, of which no bandwidth is told
    const ended sql = call(tmp.variable(), "bench", small_shape + "--fill synthetic -d 4096 -o sql");
    CHECK(sql.says("  fill TEXT,\n  memory_by_device TEXT,\n  weights_bytes INTEGER,"));
    CHECK(sql.says("  ms_per_token REAL,\n  bytes_per_token INTEGER,"));
    CHECK(!sql.says("null"));
    CHECK(call(tmp.variable(), "bench", small_shape + "-p 8 -n 0 -o sql").says("', null, null, null, null, '")); // as of bandwidth
    const ended md = call(tmp.variable(), "bench", small_shape + "--shape smollm2:q4_0 -p 64 -n 0 --fill synthetic -d 4096");
    CHECK_EQ(md.status, 0);
    CHECK(md.says("fill       |            test |"));
    CHECK(md.says("Q8_0") && md.says("Q4_0") && md.says("pp64 @ d4096") && md.says("tg2 @ d4096"));
    CHECK(md.err.find("64 tokens of a prompt and 0 generated at a depth of 4096:\nCPU ") != std::string::npos);
    CHECK(md.err.find("stock's largest context") != std::string::npos);
    const json prompt = row_of("-p 64 -n 0 --fill synthetic -d 4096");
    CHECK(!prompt.is_null() && prompt["bytes_per_token"].is_null());
}

// Any model's cache is filled: those with windows and recurrent layers, too.
void test_bench_fill() {
    for (const std::string model : { "-m '" + needle + "' -d 2048", std::string("--shape gemma-3-27b-small -d 16384"), std::string("--shape qwen3.5-9b-small -d 16384") }) {
        for (const std::string heads : { "", " --duo-sparsity 0.5" }) {
            const temporary_folder tmp;
            const auto rows = rows_of(call(tmp.variable(), "bench", model + heads + " --fill synthetic -p 8 -n 2 -r 2 -t 2 -o jsonl"));
            CHECK_EQ(rows.size(), 2u);
            for (const json & row : rows) {
                CHECK_EQ(row["samples_ns"].size(), 2u);
                CHECK(row["avg_ns"].get<double>() < 20e9);
            }
        }
    }
    random_model_params p;
    p.arch     = "mamba";
    p.n_embd   = 128;
    p.block    = "attn_norm E; ssm_in E 512; ssm_conv1d 4 256; ssm_conv1d.bias 256; ssm_x 256 40; ssm_dt 8 256; ssm_dt.bias 256; ssm_a. 16 256; ssm_d. 256; ssm_out 256 E";
    p.metadata = "ssm.conv_kernel=4 ssm.inner_size=256 ssm.state_size=16 ssm.time_step_rank=8";
    const random_model_file file(p);
    const ended run = call("bench", "-m '" + file.path() + "' " + short_bench + " --fill synthetic -d 64");
    CHECK_EQ(run.status, 1);
    CHECK(run.says("--fill synthetic cannot fill the cache of the architecture mamba"));
    CHECK_EQ(call("bench", "-m '" + file.path() + "' " + short_bench + " -d 64").status, 0);
}

// What does not fit is refused, with what does; nothing stays in the folder then, nor where a signal ends the process.
void test_bench_shape_refuses() {
    const temporary_folder tmp;
    const struct {
        const char * arguments;
        const char * says;
    } cases[] = {
        { "--shape llama-9-8b",                   "--shape is \"llama-9-8b\"; expected smollm2, llama-1b, llama-3-8b" },
        { "--shape smollm2,",                     "--shape is \"\"" },
        { "--shape smollm2:q9",                   "--shape has weights of type \"q9\"; expected q8_0, q4_0 or f16" },
        { "--shape",                              "--shape needs a value" },
        { "--shape smollm2 --fill zeros",         "--fill is \"zeros\"; expected synthetic" },
        { "--shape smollm2 --fill",               "--fill needs a value" },
        { "--shape smollm2 --fill synthetic -sm tensor", "--fill synthetic cannot be used with -sm tensor" },
        { "--shape smollm2 --duo-gates none.tsv", "none.tsv: no such file or folder" },
    };
    for (const auto & c : cases) {
        const ended run = call(tmp.variable(), "bench", c.arguments);
        CHECK_EQ(run.status, 1);
        CHECK(run.err.find(c.says) != std::string::npos);
        if (run.err.find(c.says) == std::string::npos) {
            printf("%s: said \"%s\"\n", c.arguments, run.err.substr(0, 300).c_str());
        }
    }
    const ended unwritten = call("TMPDIR=/none", "bench", "--shape smollm2");
    CHECK_EQ(unwritten.status, 1);
    CHECK(unwritten.says("TMPDIR says where, and is \"/none\""));

    for (const std::string name : { "TERM", "PIPE" }) {
        const ended by_signal = call(tmp.variable() + "timeout -s " + name + " 5", "bench", small_shape + "-n 1000000");
        CHECK_EQ(by_signal.status, 124);
        CHECK(std::filesystem::is_empty(tmp.path()));
    }

    // of 256 MiB
    const std::string device = std::string(device_variable) + "=" + std::to_string(256 << 20) + " " + tmp.variable();
    const std::string deep   = small_shape + "--fill synthetic -d 131072 -o jsonl ";
    const ended stock = call(device, "bench", deep);
    CHECK_EQ(stock.status, 1);
    CHECK(stock.says(" of device, where 0.25 GiB are free; llama.cpp's own cache fits up to a context of "));
    const ended half = call(device, "bench", deep + "--duo-sparsity 0.5");
    CHECK_EQ(half.status, 1);
    const std::string says = "; the smallest --duo-sparsity that fits is ";
    const size_t at = half.err.find(says);
    CHECK(at != std::string::npos);
    const double smallest = at == std::string::npos ? 0 : strtod(half.err.c_str() + at + says.size(), nullptr);
    CHECK(smallest > 0.5 && smallest < 1);
    char less[32], enough[32];
    snprintf(less,   sizeof(less),   "--duo-sparsity %.2f", smallest - 0.01);
    snprintf(enough, sizeof(enough), "--duo-sparsity %.2f", smallest);
    CHECK_EQ(call(device, "bench", deep + less).status, 1);
    const auto rows = rows_of(call(device, "bench", deep + enough));
    CHECK_EQ(rows.size(), 1u);
    CHECK(!rows.empty() && rows[0]["memory_by_device"].get<std::string>().find("device: weights ") == 0);
    CHECK(!rows.empty() && rows[0]["stock_max_context"].get<int64_t>() < 131072);

    const ended never = call(std::string(device_variable) + "=" + std::to_string(32 << 20) + " " + tmp.variable(), "bench", deep + "--duo-sparsity 0.5");
    CHECK_EQ(never.status, 1);
    CHECK(never.says("it does not fit with every head streaming either"));
}

// A line for each sixteenth of what is read, below what it is, and only where it is asked for together with flags of ours.
void test_bench_progress() {
    const std::string long_prompt = " -p 512 -b 32 -n 0 -r 1 -t 1 --no-warmup -o jsonl --progress";
    const ended run = call("bench", "-m '" + needle + "' --duo-sparsity 0.5" + long_prompt);
    CHECK_EQ(run.status, 0);
    int n = 0;
    for (const std::string & line : split(run.err, '\n')) {
        n += line.find(" of 512 tokens (") != std::string::npos;
    }
    CHECK_EQ(n, 16);
    CHECK(run.says("llama-bench: 32 of 512 tokens (6%): "));
    CHECK(run.says(" s left\n"));
    CHECK(run.says("llama-bench: 512 of 512 tokens (100%): "));
    CHECK(!call("bench", "-m '" + needle + "'" + long_prompt).says("tokens ("));

    const ended all = call("bench", "-m '" + needle + "' --duo-sparsity 0.5 -p 512 -d 512 -b 32 -n 0 -r 1 -t 1 -o jsonl --progress");
    CHECK_EQ(all.status, 0);
    std::string before, read;
    for (const std::string & line : split(all.err, '\n')) {
        if (line.find(": 32 of 512 tokens (") != std::string::npos) {
            read += before.substr(before.rfind(": ") + 2) + "; ";
        }
        before = line;
    }
    CHECK_EQ(read, "warmup prompt run; depth run 1/1; prompt run 1/1; ");
}

// Time is 2 ms a token and 1 us for every token before it; or it is not, and what was read at first took longer.
void test_seconds_left() {
    const auto seconds = [](double n) { return 2e-3 * n + 1e-6 * n * n; };
    const bench_progress::point half = { 1000, seconds(1000) }, last = { 2000, seconds(2000) };
    CHECK_NEAR(bench_progress::seconds_left(half, last, 10000), seconds(10000) - seconds(2000), 1e-9);
    CHECK_NEAR(bench_progress::seconds_left(half, last, 2000), 0, 1e-9);
    CHECK_NEAR(bench_progress::seconds_left({ 1000, 2 }, { 1000, 2 }, 10000), 18, 1e-9);
    CHECK_NEAR(bench_progress::seconds_left({ 1000, 2 }, { 2000, 3 }, 10000), 12, 1e-9);
}

// --- all of them ---

void test_help() {
    for (const auto & [tool, function] : tools) {
        const ended run = call(tool, "--help");
        CHECK_EQ(run.status, 0);
        for (const std::string & flag : duo_flags) {
            std::string variable = "LLAMA_ARG_DUO_" + flag;
            std::transform(variable.begin(), variable.end(), variable.begin(), ::toupper);
            CHECK(run.says("--duo-" + flag + " "));
            CHECK(run.says("(env: " + variable + ")"));
        }
    }
}

// A mixed-head cache is made of what flags say, and of what variables say; gates are the model's own where none are named.
void test_use() {
    const std::string text = std::filesystem::temp_directory_path() / ("llama-duo-test-text-" + std::to_string(getpid()));
    std::ofstream(text) << [] {
        std::string words;
        for (int i = 0; i < 200; ++i) {
            words += "the number " + std::to_string(i) + " is not the word of the day. ";
        }
        return words;
    }();
    const std::map<std::string, std::string> arguments = {
        { "batched-bench", "-c 512 -npp 16 -ntg 2 -npl 1,2 -t 1" },
        { "bench",         short_bench + " -v" },
        { "completion",    "-c 512 -n 2 -t 1 --temp 0 -no-cnv -p The" },
        { "fit-params",    "-c 4096 --fit-print on" },
        { "perplexity",    "-c 128 -b 128 --chunks 1 -t 1 -f '" + text + "'" },
    };
    const std::string model = " -m '" + needle + "' ";
    for (const auto & [tool, more] : arguments) {
        const std::string loud = tool == "bench" ? "" : " -lv 5";
        const std::string cache = "12 streaming heads";
        const ended stock = call(tool, more + model + loud);
        CHECK_EQ(stock.status, 0);
        CHECK(!stock.says("streaming heads"));

        const ended by_flags = call(tool, more + model + loud + " --duo-gates '" + gates + "' --duo-sparsity 0.5 --duo-sink 5 --duo-recent 33 --duo-chunk 3");
        CHECK_EQ(by_flags.status, 0);
        CHECK(by_flags.says(cache));
        CHECK(by_flags.says("(sink 5, recent 33, chunk 3)"));

        const ended by_variables = call("LLAMA_ARG_DUO_GATES='" + gates + "' LLAMA_ARG_DUO_SPARSITY=0.5 LLAMA_ARG_DUO_SINK=5 LLAMA_ARG_DUO_RECENT=33 LLAMA_ARG_DUO_CHUNK=3",
                tool, more + model + loud);
        CHECK_EQ(by_variables.status, 0);
        CHECK(by_variables.says("(sink 5, recent 33, chunk 3)"));

        // the side-car beside the model
        for (const std::string own : { "--duo-gates auto", "--duo-sparsity 0.5" }) {
            const ended run = call(tool, more + model + loud + " " + own);
            CHECK_EQ(run.status, 0);
            CHECK(run.says(cache));
        }
        // why there is no cache, which is the last thing that is logged
        const ended refused = call(tool, more + model + " --duo-gates none.tsv");
        CHECK_EQ(refused.status, 1);
        CHECK(refused.says("none.tsv: no such file or folder"));
    }
    remove(text.c_str());
}

// --- fitting ---

// "-c 4096 -ngl 5": the context that a tool has found to fit.
uint32_t fitted(const ended & run) {
    CHECK_EQ(run.status, 0);
    const size_t at = run.out.find("-c ");
    CHECK(at != std::string::npos);
    return at == std::string::npos ? 0 : uint32_t(strtoul(run.out.c_str() + at + 3, nullptr, 10));
}

// MiB of the device's context, as fit-params prints what is needed: "NAME MODEL CONTEXT COMPUTE".
size_t context_mib(const ended & run) {
    CHECK_EQ(run.status, 0);
    size_t model = 0, context = 0, compute = 0;
    const size_t at = run.out.find("device ");
    CHECK(at != std::string::npos && sscanf(run.out.c_str() + at, "device %zu %zu %zu", &model, &context, &compute) == 3);
    return context;
}

// fit-params finds the context that mixed heads have room for: where stock has to shorten it, they keep the whole, or a longer one.
void test_fit_params() {
    random_model_params p;
    p.n_layer = 4;
    p.n_ctx   = 131072;
    const random_model_file file(p);
    const std::string model = "-m '" + file.path() + "' -fitt 1 ";
    // half of the heads of each layer
    const std::string pattern = std::filesystem::temp_directory_path() / ("llama-duo-test-gates-" + std::to_string(getpid()) + ".tsv");
    std::ofstream(pattern) << "0.1\t0.9\n0.9\t0.1\n0.2\t0.8\n0.8\t0.2\n";
    const std::string duo = " --duo-gates '" + pattern + "' --duo-sparsity 0.5";

    const auto on_device = [](size_t mib) { return std::string(device_variable) + "=" + std::to_string(mib << 20); };
    const size_t stock_mib = context_mib(call(on_device(8192), "fit-params", model + "-c 131072 --fit-print on"));
    const size_t mixed_mib = context_mib(call(on_device(8192), "fit-params", model + "-c 131072 --fit-print on" + duo));
    printf("a context of 131072 takes %zu MiB, and %zu MiB where half of the heads stream\n", stock_mib, mixed_mib);
    CHECK(mixed_mib > 0.45 * stock_mib && mixed_mib < 0.55 * stock_mib);

    for (const size_t share : { 75, 40 }) { // per cent of what stock's context needs
        const auto free_mib = stock_mib * share / 100;
        const uint32_t n_stock = fitted(call(on_device(free_mib), "fit-params", model));
        const uint32_t n_mixed = fitted(call(on_device(free_mib), "fit-params", model + duo));
        printf("where %zu MiB are free, fit-params gives mixed heads a context of %u and stock one of %u\n", free_mib, n_mixed, n_stock);
        CHECK(n_mixed > 1.3 * n_stock);
        CHECK(n_stock >= 4096 && n_stock < 131072);
    }
    remove(pattern.c_str());
}

int run_tool(int argc, char ** argv) {
    static fake_device device("device", true, true);
    if (const char * bytes = getenv(device_variable)) {
        device.free_bytes = device.total_bytes = strtoull(bytes, nullptr, 10);
        ggml_backend_device_register(device.device());
    }
    atexit([] { common_log_pause(common_log_main()); }); // as the llama tool does: what is logged is said before the process ends
    const auto tool = tools.find(argv[0]);
    return tool == tools.end() ? 2 : tool->second(argc, argv);
}

} // namespace

int main(int argc, char ** argv) {
    if (argc > 2 && strcmp(argv[1], "--tool") == 0) {
        return run_tool(argc - 2, argv + 2);
    }
    self   = std::filesystem::absolute(argv[0]);
    needle = argv[1];
    gates  = std::filesystem::path(needle).replace_extension(".duo.json");
    test_bench_columns();
    test_bench_sweeps();
    test_bench_budgets();
    test_bench_refuses();
    test_bench_variables();
    test_bench_shape();
    test_bench_fill();
    test_bench_shape_refuses();
    test_bench_progress();
    test_seconds_left();
    test_help();
    test_use();
    test_fit_params();
    return check::result();
}
