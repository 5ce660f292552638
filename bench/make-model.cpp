// Writes a model of random weights and gates for it, for benchmarks of programs that read files: bench-make-model [options] FILE
//
//   --shape NAME   a shape of cpp/synthetic/shapes.h, Q8_0 (llama-3-8b: 8.5 GB)
//
// The model has a vocabulary of made-up words, so that a server can speak. FILE.duo.json beside FILE.gguf is what --duo-gates auto finds: at sparsity 0.5
// every second KV head streams.
#include "synthetic.h"

#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>

int main(int argc, char ** argv) {
    std::string shape = "llama-3-8b", file;
    for (int i = 1; i < argc; ++i) {
        const std::string arg = argv[i];
        if (arg == "--shape" && i + 1 < argc) {
            shape = argv[++i];
        } else if (arg.rfind("--", 0) == 0 || !file.empty()) {
            fprintf(stderr, "%s is not an option of bench-make-model [--shape NAME] FILE\n", argv[i]);
            return 2;
        } else {
            file = arg;
        }
    }
    if (file.empty()) {
        fprintf(stderr, "bench-make-model [--shape NAME] FILE: FILE is missing\n");
        return 2;
    }
    random_model_params params = shape_or_exit(shape);
    params.words = true;
    try {
        write_random_model(params, file);
        const std::filesystem::path gates = std::filesystem::path(file).replace_extension(".duo.json");
        if (!(std::ofstream(gates) << periodic_gates(params)).flush()) {
            throw std::runtime_error(gates.string() + " cannot be written");
        }
    } catch (const std::exception & e) {
        fprintf(stderr, "%s\n", e.what());
        return 1;
    }
    return 0;
}
