#include "models-page.h"

#include "architectures.h"
#include "contexts.h"
#include "decode.h"

#include "duo-config.h"
#include "duo-report.h"
#include "llama-arch.h"
#include "llama-model.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <set>
#include <stdexcept>
#include <vector>

bool has_no_contexts(const std::string & architecture) { return architecture == "clip" || architecture == "gptj"; }

namespace {

using row = std::vector<std::string>;

// As prettier formats it.
std::string table(std::vector<row> rows) {
    std::vector<size_t> widths(rows[0].size(), 3);
    for (const row & r : rows) {
        for (size_t i = 0; i < r.size(); ++i) {
            widths[i] = std::max(widths[i], r[i].size());
        }
    }
    row rule;
    for (const size_t width : widths) {
        rule.emplace_back(width, '-');
    }
    rows.insert(rows.begin() + 1, rule);
    std::string out;
    for (const row & r : rows) {
        for (size_t i = 0; i < r.size(); ++i) {
            out += "| " + r[i] + std::string(widths[i] - r[i].size(), ' ') + " ";
        }
        out += "|\n";
    }
    return out;
}

std::string joined(const std::set<std::string> & items) {
    std::string out;
    for (const std::string & item : items) {
        out += (out.empty() ? "" : "; or ") + item;
    }
    return out;
}

// Which layers of a model have gates, in words.
std::string gated_layers(const llama_model & model) {
    const auto gated = duo_gated_heads(model);
    bool windows = false, others = false, shared = false;
    for (uint32_t il = 0; il < gated.size(); ++il) {
        const bool attends = duo_attends(model, il) && model.hparams.n_head_kv(il) > 0;
        windows = windows || (attends && model.hparams.is_swa(il));
        others  = others  || !attends;
        shared  = shared  || (attends && !model.hparams.has_kv(il));
    }
    if (std::count(gated.begin(), gated.end(), 0) == int64_t(gated.size())) {
        return "none: all that attend have sliding windows";
    }
    if (!windows && !others && !shared) {
        return "all";
    }
    std::string out = "those ";
    out += others ? "that attend" : "that see the whole context";
    out += others && windows ? " and see the whole context" : "";
    out += shared ? " and keep rows of their own" : "";
    return out;
}

// Why a model cannot, without its architecture's name.
std::string reason_of(const llama_model & model) {
    const std::string name   = model.arch_name();
    std::string       reason = duo_unsupported(&model, stock_params(GGML_TYPE_F16, 256));
    if (reason.empty()) {
        throw std::runtime_error(name + " is said to be refused, and is not");
    }
    for (const std::string & prefix : { "the architecture " + name + " cannot: ", "the architecture " + name + " ", std::string("the model ") }) {
        if (reason.rfind(prefix, 0) == 0) {
            reason = reason.substr(prefix.size());
            return reason.rfind("it ", 0) == 0 || prefix.find("cannot") != std::string::npos ? reason : "it " + reason;
        }
    }
    return reason;
}

random_model_params small(const std::string & arch, const std::string & metadata) {
    random_model_params p;
    p.arch      = arch;
    p.metadata  = metadata;
    p.n_layer   = 2;
    p.head_size = 32;
    p.n_vocab   = 128;
    return p;
}

// --- models that many people download ---

// Layouts as they are reported; sizes that no row depends on are small.
struct popular_model {
    std::string name;
    std::string arch;
    int64_t     n_layer, n_head_kv, head_size; // of the layers that see the whole context
    std::string metadata;
    int         global = 1; // each so many'th layer sees the whole context
};

// Sliding windows on all layers but each n'th.
std::string window_pattern(int64_t n_layer, int n) {
    std::string out = "attention.sliding_window_pattern=";
    for (int64_t il = 0; il < n_layer; ++il) {
        out += std::string(il ? "," : "") + (il % n == n - 1 ? "0" : "1");
    }
    return out + " attention.sliding_window=1024 ";
}

const std::string delta_net = "ssm.conv_kernel=4 ssm.inner_size=64 ssm.state_size=16 ssm.time_step_rank=4 ssm.group_count=2 full_attention_interval=4 "
                              "rope.dimension_sections=4,4,4,4 ";
const std::string moe     = "expert_count=2 expert_used_count=2 expert_feed_forward_length=F ";
const std::string gemma_4 = "embedding_length_per_layer_input=0 attention.key_length_swa=256 attention.value_length_swa=256 rope.dimension_count_swa=256 ";

const popular_model popular_models[] = {
    { "Qwen3.8-27B, Qwen3.6-27B",  "qwen35",    64, 4, 256, delta_net, 4 },
    { "gemma-4-26B-A4B",           "gemma4",    30, 2, 512, gemma_4 + window_pattern(30, 6), 6 },
    { "Qwen3.6-35B-A3B",           "qwen35moe", 40, 2, 256, delta_net + moe, 4 },
    { "Qwen3.5-9B",                "qwen35",    32, 4, 256, delta_net, 4 },
    { "Muse-Glimmer-30B",          "muse-glimmer", 52, 2, 128, window_pattern(52, 4) + "logit_scale=0.5 final_logit_softcapping=20.0 ", 4 },
    { "gemma-4-31B",               "gemma4",    60, 4, 512, gemma_4 + window_pattern(60, 6), 6 },
    { "gemma-4-12B",               "gemma4",    48, 1, 512, gemma_4 + window_pattern(48, 6), 6 },
    { "gpt-oss-20b",               "gpt-oss",   24, 8, 64,  moe + "attention.sliding_window=128 ", 2 },
    { "Qwen3-8B, DeepSeek-R1-0528-Qwen3-8B", "qwen3", 36, 8, 128, "" },
    { "Llama-3.1-8B",              "llama",     32, 8, 128, "" },
    { "Qwen3-30B-A3B",             "qwen3moe",  48, 4, 128, moe },
};

std::string gib(uint64_t bytes) {
    char text[32];
    snprintf(text, sizeof(text), "%.2f GiB", double(bytes) / (1 << 30));
    return text;
}

row popular_row(const popular_model & m) {
    random_model_params p = small(m.arch, m.metadata);
    p.n_layer   = m.n_layer;
    p.n_head    = m.n_head_kv;
    p.n_head_kv = m.n_head_kv;
    p.head_size = m.head_size;
    p.n_embd    = 64;
    p.n_ff      = 64;
    p.n_ctx     = 131072;
    const auto model = make_hollow_model(p);

    const auto gated = duo_gated_heads(*model);
    for (int64_t il = 0; il < m.n_layer; ++il) {
        if ((gated[il] > 0) != (il % m.global == m.global - 1)) {
            throw std::runtime_error(m.name + ": layer " + std::to_string(il) + " has " + std::to_string(gated[il]) + " gates");
        }
    }
    const std::string gates = random_gates(model.get(), 1); // which heads stream does not matter
    const auto rows = [&](float sparsity) {
        const duo_kv_size size = duo_kv_size_for(model.get(), duo_params(GGML_TYPE_F16, 131072, sparsity, gates.c_str()));
        return size.retrieval_bytes + size.streaming_bytes;
    };
    int32_t n_gated = 0;
    for (const int32_t n : gated) {
        n_gated += n;
    }
    return { m.name, "`" + m.arch + "`", std::to_string(n_gated), gib(rows(0.0f)), gib(rows(0.5f)), gib(rows(1.0f)) };
}

} // namespace

std::string models_page() {
    std::map<std::string, std::set<std::string>> gates;   // of those that are tested
    std::map<std::string, std::set<std::string>> refused; // for what their models are like
    for (const architecture & a : architectures()) {
        gates[a.name].insert(gated_layers(*a.load(1)));
    }
    for (const refused_architecture & a : refused_architectures()) {
        refused[a.name].insert(reason_of(*make_hollow_model(small(a.name, a.metadata))));
    }

    std::vector<row> can = { { "architecture", "layers that have gates", "but not where" } }, cannot = { { "architecture", "why not" } };
    const auto model = architectures()[0].load(1);
    for (int i = 0; i < LLM_ARCH_UNKNOWN; ++i) {
        const std::string name = llm_arch_name(llm_arch(i));
        if (gates.count(name)) {
            can.push_back({ "`" + name + "`", joined(gates[name]), joined(refused[name]) });
        } else if (refused.count(name)) {
            cannot.push_back({ "`" + name + "`", joined(refused[name]) });
        } else if (has_no_contexts(name)) {
            cannot.push_back({ "`" + name + "`", "llama.cpp makes no contexts of it" });
        } else {
            model->arch = llm_arch(i);
            std::string reason;
            try {
                reason = reason_of(*model);
            } catch (const std::runtime_error &) {
                throw std::runtime_error(name + " is neither tested nor refused: add it to cpp/test/architectures.cpp or refuse it in cpp/memory/duo-support.cpp");
            }
            cannot.push_back({ "`" + name + "`", reason });
            model->arch = LLM_ARCH_LLAMA;
        }
    }
    std::vector<row> popular = { { "model", "architecture", "heads with gates", "none streams", "half stream", "all stream" } };
    for (const popular_model & m : popular_models) {
        popular.push_back(popular_row(m));
    }

    return "# Models\n"
           "\n"
           "Which of the " + std::to_string(LLM_ARCH_UNKNOWN) + " architectures of the pinned llama.cpp can have mixed heads. This page is written by `build/test-architectures --page`, from what\n"
           "that test proves of small random models of each, and the tests fail where it says anything else. `llama-duo inspect -m model.gguf` tells of a file.\n"
           "\n"
           "## Models that many people download\n"
           "\n"
           "K and V rows of the heads with gates at 131,072 tokens in f16, one sequence, a batch (`-ub`) of 512, 64 sinks and 256 recent keys. Sliding windows of the model's own and recurrent states come\n"
           "on top; they don't grow with the context. Sizes are what a context of the reported layout would allocate; `inspect` takes them from the file. How many heads can stream without loss is another\n"
           "question: [calibration](calibration.md) and `llama-duo eval` answer it.\n"
           "\n" + table(popular) +
           "\n"
           "## Supported\n"
           "\n"
           "A layer without gates keeps what it keeps in llama.cpp: its window, its recurrent state.\n"
           "\n" + table(can) +
           "\n"
           "## Refused\n"
           "\n"
           "Before anything is computed, with this reason. Without mixed heads these run as in llama.cpp.\n"
           "\n" + table(cannot);
}
