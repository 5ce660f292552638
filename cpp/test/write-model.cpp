// Writes a model for test/server: write-model ARCHITECTURE KIND SEED FOLDER
//
// KIND: plain, predicts (it has layers that predict ahead) or windows (it has sliding windows)
//
//   model.gguf       of random weights
//   model.duo.json   random gates for it
//   draft.gguf       the same with noise: a draft model for it
#include "decode.h"
#include "draft-model.h"

#include <cstdio>
#include <exception>
#include <fstream>
#include <string>

int main(int argc, char ** argv) {
    if (argc != 5) {
        fprintf(stderr, "write-model ARCHITECTURE KIND SEED FOLDER: %d arguments\n", argc - 1);
        return 2;
    }
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    try {
        const std::string kind = argv[2], folder = std::string(argv[4]) + "/";
        const uint64_t    seed = std::stoull(argv[3]);
        const random_model_params params = draft_model_params(argv[1], kind == "predicts", kind == "windows", seed);
        write_random_model(params, folder + "model.gguf");
        write_random_model(noisy_model_params(params), folder + "draft.gguf");
        if (!(std::ofstream(folder + "model.duo.json") << random_gates(make_random_model(params).get(), seed)).flush()) {
            throw std::runtime_error(folder + "model.duo.json cannot be written");
        }
    } catch (const std::exception & e) {
        fprintf(stderr, "%s\n", e.what());
        return 1;
    }
    return 0;
}
