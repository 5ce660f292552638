// A model on a GPU says what it says on the CPU: test-gpu-agreement MODEL LANGUAGE.json [DEVICE].
//
// The model is models/needle.gguf, which knows the language. One prompt ends in a question, another in words that it saw before: what follows those is
// certain, as running text is not. Along the CPU's greedy tokens the GPU's logits are compared; where it always picks the same one, it would have
// generated the same text alone. How far apart logits may be is measured too: stock llama.cpp on the two devices, over the same tokens.
#include "check.h"
#include "contexts.h"
#include "decode.h"

#include "duo-report.h"
#include "llama-ext.h"
#include "llama.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <vector>

namespace {

constexpr int N_PROMPT  = 2000; // about as many tokens; several times what a streaming head sees
constexpr int N_GREEDY  = 64;
constexpr int N_CONTEXT = 4096;

// What rounding alone makes of the logits of stock llama.cpp, at most: activations are quantised where weights are, which alone makes 1e-2 to 2e-2.
constexpr double YARDSTICK = 0.03;

using json = nlohmann::json;

class language {
public:
    language(const json & data, uint64_t seed) : data(data), rng(seed) {}

    std::string sentence() {
        const std::string pattern = pick(data.at("haystack").at("patterns"));
        std::string out;
        for (size_t at = 0; at < pattern.size();) {
            const size_t open = pattern.find('{', at), close = pattern.find('}', at);
            out += pattern.substr(at, open - at);
            if (open == std::string::npos) {
                break;
            }
            out += word(data.at("haystack").at("words").at(pattern.substr(open + 1, close - open - 1)));
            at = close + 1;
        }
        return out;
    }

    std::string key() { return word(data.at("keys")); }

    // n different ones, each with a space before it.
    std::vector<std::string> keys(size_t n) {
        std::vector<std::string> all;
        for (const std::string line : data.at("keys")) {
            std::istringstream words(line);
            for (std::string word; words >> word;) {
                all.push_back(" " + word);
            }
        }
        std::shuffle(all.begin(), all.end(), rng);
        all.resize(std::min(n, all.size()));
        return all;
    }

    std::string value() {
        std::string digits;
        for (int i = 0; i < data.at("value").at("digits").get<int>(); ++i) {
            digits += char('0' + rng() % 10);
        }
        return digits;
    }

    // A part of the needle task.
    std::string needle_text(const char * part, const std::string & key, const std::string & value) const {
        std::string text = data.at("tasks").at("needle").at(part);
        for (const auto & [slot, with] : { std::pair<std::string, std::string> { "{key}", key }, { "{value}", value } }) {
            for (size_t at; (at = text.find(slot)) != std::string::npos;) {
                text.replace(at, slot.size(), with);
            }
        }
        return text;
    }

private:
    // Word lists are lines of words.
    std::string word(const json & lines) {
        std::istringstream line { pick(lines) };
        std::vector<std::string> words { std::istream_iterator<std::string>(line), {} };
        return words[rng() % words.size()];
    }
    std::string pick(const json & list) { return list[rng() % list.size()]; }

    const json &    data;
    std::mt19937_64 rng;
};

std::vector<llama_token> tokenize(const llama_model * model, const std::string & text) {
    std::vector<llama_token> tokens(text.size() + 8);
    tokens.resize(llama_tokenize(llama_model_get_vocab(model), text.data(), int(text.size()), tokens.data(), int(tokens.size()), true, false));
    return tokens;
}

// All of a model on one device; a GPU has no part in the CPU's.
std::shared_ptr<llama_model> load(const char * path, ggml_backend_dev_t dev) {
    const bool on_cpu = ggml_backend_dev_type(dev) == GGML_BACKEND_DEVICE_TYPE_CPU;
    ggml_backend_dev_t devices[] = { on_cpu ? nullptr : dev, nullptr };
    llama_model_params params = llama_model_default_params();
    params.devices      = devices;
    params.n_gpu_layers = on_cpu ? 0 : 99;
    return std::shared_ptr<llama_model>(llama_model_load_from_file(path, params), llama_model_free);
}

// The best token, and how far the second is behind it.
std::pair<llama_token, float> best(const std::vector<float> & logits) {
    const auto top = std::max_element(logits.begin(), logits.end());
    float second = -INFINITY;
    for (auto it = logits.begin(); it != logits.end(); ++it) {
        if (it != top) {
            second = std::max(second, *it);
        }
    }
    return { llama_token(top - logits.begin()), *top - second };
}

struct agreement {
    int    n_same     = 0;
    double worst      = 0.0;      // relative L2 of a token's logits
    double mean       = 0.0;      // and on the average
    float  closest    = INFINITY; // the CPU's smallest margin
    float  missed     = 0.0f;     // its largest one where the GPU picked another token
    std::string text;             // what the CPU generated
};

agreement compare(llama_context * cpu, llama_context * gpu, const std::vector<llama_token> & prompt) {
    agreement a;
    std::vector<float> want = prefill(cpu, prompt, N_CONTEXT), found = prefill(gpu, prompt, N_CONTEXT);
    for (int i = 0;; ++i) {
        const auto [token, margin] = best(want);
        const bool   same = best(found).first == token;
        const double e    = relative(found, want);
        a.n_same += same;
        a.worst   = e <= a.worst ? a.worst : e; // NaN is worst
        a.mean   += e / N_GREEDY;
        a.closest = std::min(a.closest, margin);
        a.missed  = std::max(a.missed, same ? 0.0f : margin);
        char piece[64];
        const int n = llama_token_to_piece(llama_model_get_vocab(llama_get_model(cpu)), token, piece, sizeof(piece), 0, true);
        a.text.append(piece, std::max(n, 0));
        if (i + 1 == N_GREEDY) {
            return a;
        }
        want.clear();
        found.clear();
        const int position = int(prompt.size()) + i;
        CHECK_EQ(decode(cpu, &token, 1, position, true, want), 0);
        CHECK_EQ(decode(gpu, &token, 1, position, true, found), 0);
    }
}

// Whether the cache, and so its attention, is on the device.
bool is_on(llama_context * ctx, ggml_backend_dev_t dev) {
    const auto all = llama_get_memory_breakdown(ctx);
    const auto it  = all.find(ggml_backend_dev_buffer_type(dev));
    return it != all.end() && it->second.context >= duo_kv_size_of(ctx).total_bytes;
}

} // namespace

int main(int argc, char ** argv) {
    if (argc != 3 && argc != 4) {
        printf("usage: test-gpu-agreement MODEL LANGUAGE.json [DEVICE]\n");
        return 2;
    }
    llama_log_set([](ggml_log_level level, const char * text, void *) { if (level >= GGML_LOG_LEVEL_WARN && level != GGML_LOG_LEVEL_CONT) { fputs(text, stderr); } }, nullptr);
    llama_backend_init();
    const char * name = argc > 3 ? argv[3] : "CUDA0";
    const ggml_backend_dev_t cpu_dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU), gpu_dev = ggml_backend_dev_by_name(name);
    if (!gpu_dev) {
        printf("there is no device %s\n", name);
        return 2;
    }
    std::ifstream file(argv[2]);
    const json data = json::parse(file, nullptr, false);
    const auto cpu_model = load(argv[1], cpu_dev), gpu_model = load(argv[1], gpu_dev);
    if (data.is_discarded() || !cpu_model || !gpu_model) {
        printf("cannot load %s\n", data.is_discarded() ? argv[2] : argv[1]);
        return 2;
    }

    // A needle near the front of a haystack, for a question. And after the haystack words to be said again, within the window of a streaming head.
    language text(data, fresh_seed());
    const std::string key = text.key(), value = text.value();
    std::string haystack = text.needle_text("intro", key, value) + text.sentence();
    for (int i = 0; int(tokenize(cpu_model.get(), haystack).size()) < N_PROMPT; ++i) {
        haystack += " " + (i == 30 ? text.needle_text("needle", key, value) : text.sentence());
    }
    const auto words = text.keys(N_GREEDY + 10);
    std::string said = haystack;
    for (const std::string & word : words) {
        said += word;
    }
    said += " " + text.sentence() + words[0] + words[1];
    const std::string asked = haystack + text.needle_text("question", key, value) + text.needle_text("answer", key, value);
    const std::pair<const char *, std::string> prompts[] = { { "question", asked }, { "words again", said } };

    double stock_worst = 0.0, stock_mean = 0.0;
    const auto stock = stock_params(GGML_TYPE_F16, N_CONTEXT);
    for (const auto & [mode, sparsity] : std::vector<std::pair<const char *, float>> { { "stock", -1.0f }, { "sparsity 0", 0.0f }, { "sparsity 0.5", 0.5f }, { "all streaming", 1.0f } }) {
        const bool is_stock = sparsity < 0.0f;
        const auto params = is_stock ? stock : duo_params(GGML_TYPE_F16, N_CONTEXT, sparsity, "auto"); // the gates beside the model
        const auto cpu = make_context(cpu_model.get(), params), gpu = make_context(gpu_model.get(), params);
        CHECK(cpu && gpu);
        if (!cpu || !gpu) {
            continue;
        }
        CHECK(is_stock || is_on(gpu.get(), gpu_dev));
        for (const auto & [what, prompt] : prompts) {
            const agreement a = compare(cpu.get(), gpu.get(), tokenize(cpu_model.get(), prompt));
            printf("%-13s  %-11s  %d of %d tokens the same; logits at most %.2e, typically %.2e apart; the CPU's margin at least %.3f, where missed %.3f; text:%.40s...\n",
                    mode, what, a.n_same, N_GREEDY, a.worst, a.mean, a.closest, a.missed, a.text.c_str());
            if (is_stock) {
                stock_worst = std::max(stock_worst, a.worst);
                stock_mean  = std::max(stock_mean, a.mean);
                CHECK(a.mean < YARDSTICK);
                continue;
            }
            CHECK(a.worst <= 1.5 * stock_worst);
            CHECK(a.mean <= 1.25 * stock_mean);
            if (what == prompts[1].first) {
                CHECK(a.closest > 1.0f);
                CHECK_EQ(a.n_same, N_GREEDY);
                continue;
            }
            CHECK(a.missed < 0.25f); // running text follows the answer, and has words as good as equal
            if (sparsity < 1.0f) {
                CHECK_EQ(a.text.substr(0, value.size() + 1), " " + value);
            }
        }
    }
    return check::result();
}
