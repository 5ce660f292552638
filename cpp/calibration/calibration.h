// Finding the retrieval heads of a model with forward passes only: how much its answers about a far context suffer when a KV head sees no more than a
// streaming head would, or what its attention rows say. Heads are those that have a gate (duo_gated_heads): a model's sliding windows and recurrent layers stay
// as they are.
#pragma once

#include "gate-pattern.h"

#include "llama.h"

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace duo {

// One text to calibrate on: a context that is read once, and what is asked of it, which is read again for every measurement.
struct calibration_sample {
    std::vector<llama_token> tokens;
    size_t                   n_context = 0; // tokens before the first question

    // [first, end): what is foretold and measured, which takes the context. In order, disjoint, behind at least one token of the questions.
    std::vector<std::pair<size_t, size_t>> answers;
};

enum class calibration_method {
    windows,  // what each head loses at each of several windows while the heads that are needed less have theirs, and what rows of cache types lose
    combined, // the larger of a head's ranks by typical, beyond rounding, and by mass: it is needed if answers suffer without it, or if they look where it alone would see
    typical,  // ablation by the typical loss, which no few of the answers' tokens decide
    ablation, // each head windowed alone: DuoAttention's own objective
    greedy,   // the least needed heads windowed step by step, the others measured again after each
    masks,    // regression of the loss on random masks
    bosch,    // the least loss of a share of the heads, searched for as a black box: layers first, then their heads (in the manner of arXiv 2604.05942)
    mass,     // attention beyond sinks and window at the answers
    kvzip,    // the most attention that a far key gets while the context is repeated (arXiv 2505.23416)
    mean_qk,  // far attention of the mean query on the mean key (kvpress, DuoAttentionPress on the fly)
};

// As calibration_method numbers them.
const std::vector<std::string> & calibration_method_names();

struct calibration_params {
    calibration_method              method = calibration_method::combined;
    std::vector<calibration_sample> samples;

    int32_t sink   = 64;  // what a windowed head sees
    int32_t recent = 256; // but by method windows

    std::vector<int32_t>   windows; // method windows: recent keys, rising
    std::vector<ggml_type> types;   // method windows: of rows, beside f16

    bool     strict    = false; // contexts are read under every mask that is measured, instead of once with all heads seeing everything
    int32_t  n_masks   = 0;     // methods masks and bosch: how many, 0: twice the heads, and four times
    uint64_t seed      = 0;     // of these methods: which
    int32_t  n_threads = 1;
    bool     offload   = true;  // as llama_context_params.offload_kqv

    std::string partial; // file of measurements that a later run with the same parameters goes on from; "": none
    std::string model_id; // tells models apart in it

    std::function<void(double)> progress;  // 0 to 1
    std::function<bool()>       cancelled; // true: stop, by calibration_cancelled
};

struct calibration_cancelled {};

struct calibration_error : std::runtime_error {
    enum kind_t { samples, context, unsupported, decode, file, output }; // file: not one to go on from; output: writing it failed

    calibration_error(kind_t kind, const std::string & message) : std::runtime_error(message), kind(kind) {}

    const kind_t kind;
};

// Of a mask, against every head seeing everything; means over the answers' tokens.
struct calibration_loss {
    double mse     = 0; // squared difference of the final normalised hidden states that foretell the tokens: DuoAttention's objective
    double log_mse = 0; // the mean of its logarithm: what it typically is
    double correct = 0; // share of the tokens that are still the likeliest
    double lost    = 0; // of the tokens' probability, where it falls; any disturbance counts, that of rounding as well
};

struct calibration_result {
    gate_pattern        pattern;  // gates are ranks of scores: a gate g says that the share g of all heads scores lower
    std::vector<double> scores;   // [n_layer][n_head_kv] as pattern.gates; by method windows the order in which heads go
    double              correct = -1;  // share of the answers' tokens that are the likeliest with every head seeing everything; -1: not measured
    size_t              n_context = 0; // tokens of the contexts, all samples together
    size_t              n_tail    = 0; // of the questions and answers
    size_t              n_answer  = 0; // of the answers
    size_t              n_passes  = 0; // measurements
};

// Throws calibration_error and calibration_cancelled.
calibration_result calibrate(llama_model * model, const calibration_params & params);

} // namespace duo
