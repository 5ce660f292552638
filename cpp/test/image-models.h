// Small random models that see: a text model with made-up words, and what llama.cpp's tools call an mmproj, which makes embeddings of an image.
#pragma once

#include "random-model.h"

#include <string>

struct image_model {
    random_model_params text;
    random_model_params vision;
};

// name: qwen2vl, qwen3vl (with features of its vision's layers, too), qwen35 or gemma3.
image_model make_image_model(const std::string & name, uint64_t seed);
