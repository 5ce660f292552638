// How long it takes to calibrate a model of a shape, with random weights: bench-calibration [options]
//
//   --shape NAME      a shape of cpp/synthetic/shapes.h, Q8_0 (llama-3-8b)
//   --context N       tokens of a sample, its questions aside (32768)
//   --samples N --questions N   (1 and 6: each question takes 21 tokens, of which 6 are the answer, as SmolLM2 tokenizes llama-duo's own)
//   --method NAME     combined, typical, ablation, greedy, masks, mass, kvzip or mean-qk (combined)
//   --threads N       (8)
//
// Prints one JSON object. What heads it finds means nothing: the weights are random.
#include "synthetic.h"

#include "calibration.h"

#include "ggml-backend.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

namespace {

constexpr size_t question_size = 21, answer_size = 6;

duo::calibration_sample make_sample(std::mt19937_64 & rng, size_t n_context, size_t n_questions, int64_t n_vocab) {
    duo::calibration_sample s;
    s.n_context = n_context;
    for (size_t i = 0; i < n_context + n_questions * question_size; ++i) {
        s.tokens.push_back(llama_token(rng() % uint64_t(n_vocab)));
    }
    for (size_t q = 1; q <= n_questions; ++q) {
        const size_t end = n_context + q * question_size;
        s.answers.push_back({ end - answer_size, end });
    }
    return s;
}

} // namespace

int main(int argc, char ** argv) {
    const auto & names = duo::calibration_method_names();
    std::string shape_name = "llama-3-8b", method = names[0];
    size_t n_context = 32768, n_samples = 1, n_questions = 6;
    duo::calibration_params params;
    params.n_threads = 8;
    for (int i = 1; i < argc; i += 2) {
        const std::string flag = argv[i], value = i + 1 < argc ? argv[i + 1] : "";
        if      (flag == "--shape")     { shape_name = value; }
        else if (flag == "--context")   { n_context = std::stoul(value); }
        else if (flag == "--samples")   { n_samples = std::stoul(value); }
        else if (flag == "--questions") { n_questions = std::stoul(value); }
        else if (flag == "--method")    { method = value; }
        else if (flag == "--threads")   { params.n_threads = std::stoi(value); }
        else { fprintf(stderr, "%s: unknown flag; see the top of bench/calibration.cpp\n", flag.c_str()); return 2; }
    }
    const auto known = std::find(names.begin(), names.end(), method);
    if (known == names.end()) {
        fprintf(stderr, "--method is %s; see the top of bench/calibration.cpp\n", method.c_str());
        return 2;
    }
    params.method = duo::calibration_method(known - names.begin());

    llama_log_set([](ggml_log_level level, const char * text, void *) { if (level == GGML_LOG_LEVEL_ERROR) { fputs(text, stderr); } }, nullptr);
    llama_backend_init();
    random_model_params shape = shape_or_exit(shape_name);
    shape.n_ctx = int64_t(std::max<size_t>(size_t(shape.n_ctx), 2 * n_context + n_questions * question_size));
    const auto model = make_random_model(shape);

    std::mt19937_64 rng(1);
    for (size_t i = 0; i < n_samples; ++i) {
        params.samples.push_back(make_sample(rng, n_context, n_questions, shape.n_vocab));
    }
    double told = 0;
    params.progress = [&](double x) {
        if (x > told + 0.1) {
            told = x;
            fprintf(stderr, "%.0f%%\n", 100 * x);
        }
    };
    ggml_backend_dev_t gpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_GPU);
    const double began = now();
    const auto r = duo::calibrate(model.get(), params);
    const double seconds = now() - began;
    printf("{ \"device\": \"%s\", \"shape\": \"%s\", \"weights\": \"random q8_0\", \"method\": \"%s\", \"kvHeads\": %lld, \"contextTokens\": %zu, \"tailTokens\": %zu, "
           "\"passes\": %zu, \"threads\": %d, \"seconds\": %.1f }\n",
            gpu ? ggml_backend_dev_description(gpu) : "CPU", shape_name.c_str(), method.c_str(), (long long) (shape.n_layer * shape.n_head_kv), r.n_context, r.n_tail,
            r.n_passes, params.n_threads, seconds);
    return 0;
}
