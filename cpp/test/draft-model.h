// Random models whose drafts are right now and then, for tests of speculative decoding.
#pragma once

#include "random-model.h"

#include <cstdint>
#include <string>

// A model of an architecture, with a vocabulary. Its layers add so much to the last token that the next one depends on all that comes before it, and so little
// that what knows less of that may be right: its own layers that predict ahead (predicts: it has some), or the same model with noise on its weights.
// windows: it has sliding windows.
random_model_params draft_model_params(const std::string & arch, bool predicts, bool windows, uint64_t seed);

// The same with noise.
random_model_params noisy_model_params(random_model_params params);
