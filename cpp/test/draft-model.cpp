#include "draft-model.h"

#include "architectures.h"

#include <stdexcept>

random_model_params draft_model_params(const std::string & arch, bool predicts, bool windows, uint64_t seed) {
    for (const architecture & a : architectures()) {
        random_model_params p = a.params(seed);
        const auto says = [&](const char * what) { return p.metadata.find(what) != std::string::npos; };
        if (a.name == arch && says("nextn_predict_layers=") == predicts && says("sliding_window=") == windows) {
            p.words    = true;
            p.n_vocab  = 512;
            p.residual = 0.3f;
            p.tensors += p.tensors.find("output E V") == std::string::npos ? "; output E V" : ""; // else a token is what most likely follows itself
            return p;
        }
    }
    throw std::runtime_error("there is no such model of " + arch);
}

random_model_params noisy_model_params(random_model_params params) {
    params.noise = 0.1f;
    return params;
}
