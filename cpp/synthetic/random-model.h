// Small models with random weights, written through the gguf API so that they hold what a converted model holds and nothing else.
#pragma once

#include "ggml.h"

#include <cstdint>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

struct llama_model;
struct llama_model_params;

// A model in words: its sizes, and in which tensors of which sizes they show.
//
// Tensors are "name sizes; name sizes; ...": ".weight" is meant where a name has no suffix (a bare "." at its end: it has none), "H?name" is there where
// H is not 0, "r?name" in layers of the kind r, and a size is a sum of products of numbers and of
//   E embedding  F feed-forward  V vocabulary  C context  H heads  G KV heads  D head size of K  W head size of V  L layers
// Metadata are "key=value key=value ...": keys without the architecture's name (a first "." in its place: they have none), values as in 2, 0.5, true,
// text, F (a size as above), 1,0 (an array of sizes) or 0.5,0.5.
struct random_model_params {
    int64_t   n_layer   = 3;
    int64_t   n_head    = 4;
    int64_t   n_head_kv = 2;
    int64_t   head_size = 64;
    int64_t   head_size_v = 0;           // 0: head_size
    int64_t   n_rot     = 0;             // 0: head_size
    int64_t   n_embd    = 0;             // 0: n_head * head_size
    int64_t   n_ff      = 0;             // 0: 2 * n_embd
    int64_t   n_vocab   = 512;
    int64_t   n_ctx     = 4096;
    ggml_type type      = GGML_TYPE_F32; // of the matrices
    bool      pooled    = false;         // rows of matrices overlap in a small pool of values: gigabytes in seconds, and as fast to compute with
    bool      words     = false;         // has a vocabulary, of made-up words: for what speaks in text
    float     residual  = 1.0f;          // how much layers add to what passes by them, as a share of the usual: of little, the next token follows from the last one
    float     noise     = 0.0f;          // added to each value, as a share of their spread: a draft model for the one without
    uint64_t  seed      = 1;
    std::string arch    = "llama";

    std::vector<int64_t> n_head_layer;    // [n_layer] where they differ
    std::vector<int64_t> n_head_kv_layer; // [n_layer] where they differ
    std::vector<int64_t> head_size_layer; // [n_layer] where they differ, of K and V; the metadata that say so are the architecture's own

    std::string kinds; // of each layer, a small letter that block's words ask for

    std::string gates;    // the JSON of a gate pattern, which the file then has in its metadata
    std::string metadata; // beside the sizes
    std::string tensors = "token_embd E V; output_norm E; output E V";
    std::string block   = "attn_norm E; attn_q E HD; attn_k E GD; attn_v E GW; attn_output HW E; ffn_norm E; ffn_gate E F; ffn_up E F; ffn_down F E"; // of each layer
};

using llama_model_ptr_t = std::shared_ptr<llama_model>;

// A path where nothing is yet, in the folder for temporary files, which $TMPDIR names.
std::string temporary_path(const std::string & prefix, std::error_code & error);

// A temporary file of the model, for as long as this lives.
class random_model_file {
public:
    explicit random_model_file(const random_model_params & params);
    ~random_model_file();

    random_model_file(const random_model_file &) = delete;
    random_model_file & operator=(const random_model_file &) = delete;

    const std::string & path() const { return name; }

    // how: null means llama.cpp's defaults. Throws where llama.cpp would not load it.
    llama_model_ptr_t load(const llama_model_params * how = nullptr) const;

private:
    std::string name;
};

// Writes the model to a file. Throws std::runtime_error where it cannot be written.
void write_random_model(const random_model_params & params, const std::string & path);

// The model, loaded from a file that is gone then.
llama_model_ptr_t make_random_model(const random_model_params & params, const llama_model_params * how = nullptr);

// A model of these metadata that holds whatever tensors llama.cpp would like, their values unset: enough to be asked what it is. Throws likewise.
llama_model_ptr_t make_hollow_model(random_model_params params);
