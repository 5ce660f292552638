// The threads of a CPU backend whose user attached no pool: ggml would start and end some for every graph.
#pragma once

#include "ggml-cpu.h"

#include <memory>

class duo_own_pool {
public:
    // A pool of so many threads (ggml's default for 0): the last one, as long as it has that many.
    ggml_threadpool * get(int n) {
        if (!pool || n != n_threads) {
            n_threads = n;
            ggml_threadpool_params params = ggml_threadpool_params_default(n > 0 ? n : GGML_DEFAULT_N_THREADS);
            pool.reset(); // first, so that no more threads than asked for are there at once
            pool.reset(ggml_threadpool_new(&params));
        }
        return pool.get();
    }

private:
    struct free_pool {
        void operator()(ggml_threadpool * p) const { ggml_threadpool_free(p); }
    };
    std::unique_ptr<ggml_threadpool, free_pool> pool;
    int n_threads = 0;
};
