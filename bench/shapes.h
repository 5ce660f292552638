// Shapes of well-known models, for random weights.
#pragma once

#include "random-model.h"

#include <string>

// smollm2, llama-1b or llama-3-8b with Q8_0 weights; exits with 2 for any other.
random_model_params shape_of(const std::string & name);
