// Scores that come from looking at attention rather than from taking it away.
#pragma once

#include "calibration-passes.h"

#include <vector>

namespace duo {

// A score for each KV head that has a gate (n_head_kv of each layer), all layers one after the other, by params.method: kvzip, mean_qk, or mass in any other. Reads
// the contexts, and then what the method needs. Throws calibration_error and calibration_cancelled.
std::vector<double> attention_scores(calibration_passes & passes, const std::vector<int32_t> & n_head_kv, const calibration_params & params);

} // namespace duo
