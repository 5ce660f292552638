// Would a third tier of heads pay? Such a head keeps every position in 4 bits and its recent window in the cache's own precision, where a streaming head drops what
// is outside its window. This measures both on a model, by masks alone: no cache has such heads. bench/third-tier.mjs makes the samples and the table.
//
//   bench-third-tier REQUEST     a JSON file: model, threads, samples, sink, recent, windows, tokens, shares
//
// First each head alone: what the answers' tokens lose where it has each of the windows, and where its rows but the sinks' and the recent ones' are rounded to
// q4_0, rotated as a quantised cache rotates them. Then, for each number of tokens and each share of a full f16 cache, what loses least a byte of two tiers
// (everything, windows) and of three, and what the answers lose with each of these choices at once, contexts read with the windows. Rows that everything is kept
// of count as q8_0. Rounded rows are those of contexts that were read unrounded, which favours the third tier a little.
//
// Prints one JSON object.
#include "calibration-passes.h"
#include "llama-kv-cache-duo.h"
#include "llama-memory-hybrid-duo.h"

#include "ggml-backend.h"
#include "llama-context.h"
#include "llama-cpp.h"
#include "llama-model.h"
#include "llama.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

using json = nlohmann::ordered_json;

namespace {

constexpr double bits_q8_0 = 8.5, bits_q4_0 = 4.5, bits_f16 = 16;
constexpr int32_t slack = 640; // cells of a ring beyond its window: -ub 512, and what may be taken back

struct head { int32_t il, ih; };

// What a head keeps: everything, all of it but sinks and recent rows in 4 bits, or a window.
constexpr int32_t everything = GGML_MIXED_ATTN_ALL, in_4_bits = -1;

struct loss { double change, drop, correct; };

class experiment {
public:
    experiment(llama_model * model, const duo::calibration_params & params, const json & request) :
        params(params), passes(model, params), windows(request.at("windows").get<std::vector<int32_t>>()), recent(request.at("recent")) {
        n_head_kv = duo_gated_heads(*model);
        for (int32_t il = 0; il < int32_t(n_head_kv.size()); ++il) {
            all.emplace_back(size_t(n_head_kv[il]), everything);
            for (int32_t ih = 0; ih < n_head_kv[il]; ++ih) {
                heads.push_back({ il, ih });
            }
        }
        passes.read_contexts(all);
        full = passes.read_tails(all);
    }

    // Of every head alone, as contexts are read with all of them: [head][window, then 4 bits].
    std::vector<std::vector<loss>> alone() {
        std::vector<std::vector<loss>> found;
        for (const head & h : heads) {
            found.emplace_back();
            for (const int32_t w : windows) {
                found.back().push_back(measured(with(h, w)));
            }
            const auto saved = round_rows(h);
            found.back().push_back(measured(all));
            for (const rows & r : saved) {
                ggml_backend_tensor_set(r.tensor, r.data.data(), r.offset, r.data.size());
            }
            fprintf(stderr, "\rhead %zu of %zu", found.size(), heads.size());
        }
        fputc('\n', stderr);
        return found;
    }

    // Of a choice for all heads.
    loss together(const std::vector<int32_t> & choice) {
        duo::head_windows seen = all;
        for (size_t i = 0; i < heads.size(); ++i) {
            if (choice[i] != in_4_bits) {
                seen[heads[i].il][heads[i].ih] = choice[i];
            }
        }
        passes.read_contexts(seen);
        for (size_t i = 0; i < heads.size(); ++i) {
            if (choice[i] == in_4_bits) {
                round_rows(heads[i]);
            }
        }
        return measured(seen);
    }

    // Bits of a head's K and V a number of their elements, of so many tokens.
    double bits(int32_t choice, int64_t tokens) const {
        const auto cells = [&](int32_t w) { return double(std::min<int64_t>(tokens, params.sink + w + slack)); };
        return choice == everything ? bits_q8_0 * double(tokens) :
               choice == in_4_bits  ? bits_q4_0 * double(tokens) + bits_q8_0 * cells(recent) :
                                      bits_q8_0 * cells(choice);
    }

    // What loses least a byte until the share fits, of windows, and 4 bits where there are three tiers.
    std::vector<int32_t> choose(const std::vector<std::vector<loss>> & losses, bool three, int64_t tokens, double share, double noise) const {
        std::vector<int32_t> choice(heads.size(), everything);
        std::vector<double>  lost(heads.size(), 0.0);
        const double budget = share * bits_f16 * double(tokens) * double(heads.size());
        double used = bits(everything, tokens) * double(heads.size());
        while (used > budget) {
            double best = INFINITY;
            size_t best_i = 0;
            int32_t to = 0;
            double to_loss = 0;
            for (size_t i = 0; i < heads.size(); ++i) {
                for (size_t o = 0; o < windows.size() + (three ? 1 : 0); ++o) {
                    const int32_t next = o < windows.size() ? windows[o] : in_4_bits;
                    const double saved = bits(choice[i], tokens) - bits(next, tokens), l = std::max(0.0, losses[i][o].change - noise);
                    if (saved > 0 && (l - lost[i]) / saved < best) {
                        best = (l - lost[i]) / saved, best_i = i, to = next, to_loss = l;
                    }
                }
            }
            if (best == INFINITY) {
                break; // nothing smaller is left
            }
            used += bits(to, tokens) - bits(choice[best_i], tokens);
            choice[best_i] = to;
            lost[best_i]   = to_loss;
        }
        return choice;
    }

    const std::vector<head> & get_heads() const { return heads; }

private:
    struct rows { ggml_tensor * tensor; size_t offset; std::vector<uint8_t> data; };

    duo::head_windows with(const head & h, int32_t window) const {
        duo::head_windows w = all;
        w[h.il][h.ih] = window;
        return w;
    }

    loss measured(const duo::head_windows & seen) {
        const auto out = passes.read_tails(seen);
        loss l = { 0, 0, 0 };
        for (size_t i = 0; i < out.logp.size(); ++i) {
            l.change  += std::fabs(double(full.logp[i]) - out.logp[i]);
            l.drop    += double(full.logp[i]) - out.logp[i];
            l.correct += out.correct[i];
        }
        const double n = double(out.logp.size());
        return { l.change / n, l.drop / n, l.correct / n };
    }

    // A head's rows of all contexts but sinks and recent ones, as q4_0 keeps them. What they were.
    std::vector<rows> round_rows(const head & h) {
        const llama_kv_cache_duo * kv = duo_cache_in(llama_get_memory(passes.context()));
        const auto & layer = kv->get_layer(h.il);
        std::vector<rows> saved;
        for (ggml_tensor * t : { layer.k, layer.v }) {
            const int64_t d = t->ne[0], n_stream = int64_t(params.samples.size()), rows_of_stream = t->ne[1] / n_stream, n_cells = rows_of_stream / n_head_kv[h.il];
            const int64_t rotation = t == layer.k ? d & -d : std::min<int64_t>(64, d & -d); // as llama-kv-cache-duo.cpp has it
            for (int64_t s = 0; s < n_stream; ++s) {
                const int64_t begin = params.sink, end = std::max<int64_t>(begin, int64_t(params.samples[s].n_context) - recent);
                const size_t offset = size_t(s * rows_of_stream + h.ih * n_cells + begin) * t->nb[1];
                std::vector<uint8_t> data(size_t(end - begin) * t->nb[1]);
                ggml_backend_tensor_get(t, data.data(), offset, data.size());
                saved.push_back({ t, offset, data });
                std::vector<float> x(size_t((end - begin) * d));
                ggml_fp16_to_fp32_row((const ggml_fp16_t *) data.data(), x.data(), int64_t(x.size()));
                rotate(x, rotation);
                std::vector<uint8_t> quants(ggml_row_size(GGML_TYPE_Q4_0, int64_t(x.size())));
                ggml_quantize_chunk(GGML_TYPE_Q4_0, x.data(), quants.data(), 0, end - begin, d, nullptr);
                ggml_get_type_traits(GGML_TYPE_Q4_0)->to_float(quants.data(), x.data(), int64_t(x.size()));
                rotate(x, rotation); // its own inverse
                ggml_fp32_to_fp16_row(x.data(), (ggml_fp16_t *) data.data(), int64_t(x.size()));
                ggml_backend_tensor_set(t, data.data(), offset, data.size());
            }
        }
        return saved;
    }

    // By normalised Hadamard matrices of n.
    static void rotate(std::vector<float> & x, int64_t n) {
        const float norm = 1.0f / std::sqrt(float(n));
        for (size_t at = 0; at < x.size(); at += size_t(n)) {
            for (int64_t half = 1; half < n; half *= 2) {
                for (int64_t i = 0; i < n; i += 2 * half) {
                    for (int64_t j = i; j < i + half; ++j) {
                        const float a = x[at + j], b = x[at + j + half];
                        x[at + j] = a + b;
                        x[at + j + half] = a - b;
                    }
                }
            }
            for (int64_t i = 0; i < n; ++i) {
                x[at + i] *= norm;
            }
        }
    }

    const duo::calibration_params & params;
    duo::calibration_passes passes;
    duo::calibration_passes::outputs full;
    std::vector<int32_t> n_head_kv, windows;
    std::vector<head>    heads;
    duo::head_windows    all;
    int32_t              recent;
};

json to_json(const loss & l) { return { { "change", l.change }, { "drop", l.drop }, { "correct", l.correct } }; }

void run(const std::string & path) {
    std::ifstream file(path);
    const json request = json::parse(file);
    llama_model_params how = llama_model_default_params();
    how.n_gpu_layers = request.value("gpuLayers", 0);
    const llama_model_ptr model { llama_model_load_from_file(request.at("model").get<std::string>().c_str(), how) };
    if (!model) {
        throw std::runtime_error("llama.cpp does not load the model");
    }
    duo::calibration_params params;
    params.sink      = request.at("sink");
    params.recent    = request.at("windows").back();
    params.n_threads = request.at("threads");
    for (const json & s : request.at("samples")) {
        params.samples.push_back({ s.at("tokens").get<std::vector<llama_token>>(), s.at("context").get<size_t>(), s.at("answers").get<std::vector<std::pair<size_t, size_t>>>() });
    }
    experiment e(model.get(), params, request);
    const auto losses = e.alone();
    // What rounding alone changes, from the first layer on.
    const size_t n_windows = request.at("windows").size();
    double noise = INFINITY;
    for (size_t i = 0; i < losses.size() && e.get_heads()[i].il == e.get_heads()[0].il; ++i) {
        noise = std::min(noise, losses[i][n_windows - 1].change); // the largest
    }
    json result = { { "noise", noise }, { "heads", json::array() }, { "choices", json::array() } };
    for (size_t i = 0; i < losses.size(); ++i) {
        json row = { { "layer", e.get_heads()[i].il }, { "head", e.get_heads()[i].ih }, { "losses", json::array() } };
        for (const loss & l : losses[i]) {
            row["losses"].push_back(to_json(l));
        }
        result["heads"].push_back(row);
    }
    for (const int64_t tokens : request.at("tokens").get<std::vector<int64_t>>()) {
        for (const double share : request.at("shares").get<std::vector<double>>()) {
            for (const bool three : { false, true }) {
                const auto choice = e.choose(losses, three, tokens, share, noise);
                double used = 0;
                json count = json::object();
                for (const int32_t c : choice) {
                    used += e.bits(c, tokens);
                    const std::string name = c == everything ? "all" : c == in_4_bits ? "4 bits" : std::to_string(c);
                    count[name] = count.value(name, 0) + 1;
                }
                result["choices"].push_back({ { "tokens", tokens }, { "share", share }, { "tiers", three ? 3 : 2 },
                        { "used", used / (bits_f16 * double(tokens) * double(choice.size())) }, { "heads", count }, { "loss", to_json(e.together(choice)) } });
                fprintf(stderr, "%s\n", result["choices"].back().dump().c_str());
            }
        }
    }
    puts(result.dump().c_str());
}

} // namespace

int main(int argc, char ** argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: bench-third-tier REQUEST; see bench/third-tier.mjs\n");
        return 2;
    }
    llama_log_set([](ggml_log_level level, const char * text, void *) { if (level == GGML_LOG_LEVEL_ERROR) { fputs(text, stderr); } }, nullptr);
    llama_backend_init();
    try {
        run(argv[1]);
    } catch (const std::exception & e) {
        fprintf(stderr, "bench-third-tier: %s\n", e.what());
        return 1;
    }
}
