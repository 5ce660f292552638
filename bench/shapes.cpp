#include "shapes.h"

#include <cstdio>
#include <cstdlib>

random_model_params shape_of(const std::string & name) {
    random_model_params p;
    p.type   = GGML_TYPE_Q8_0;
    p.n_ctx  = 1 << 20;
    p.pooled = true;
    if (name == "smollm2") {
        p.n_layer = 30; p.n_head =  9; p.n_head_kv = 3; p.head_size =  64; p.n_ff =  1536; p.n_vocab =  49152;
    } else if (name == "llama-1b") {
        p.n_layer = 16; p.n_head = 32; p.n_head_kv = 8; p.head_size =  64; p.n_ff =  8192; p.n_vocab = 128256;
    } else if (name == "llama-3-8b") {
        p.n_layer = 32; p.n_head = 32; p.n_head_kv = 8; p.head_size = 128; p.n_ff = 14336; p.n_vocab = 128256;
    } else {
        fprintf(stderr, "--shape is %s; expected smollm2, llama-1b or llama-3-8b\n", name.c_str());
        exit(2);
    }
    return p;
}
