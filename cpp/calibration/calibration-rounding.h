// Which layers bear that their K rows are rounded.
#pragma once

#include "calibration-passes.h"

#include <cstdint>
#include <vector>

namespace duo {

// How much rounding K rows disturbs a layer's scores, [n_layer], up to a factor that all layers share; 0: the layer stores no rows. A row is rotated before it is rounded
// to a few bits, so its error is in proportion to its length and has no direction: the score of a query q and a key k gets one in proportion to scale |q| |k|. What
// is returned is its mean square in the worst head of a layer, queries and keys taken apart. They are those of the questions, which are read behind the contexts that are
// there. windows: of that reading. Throws calibration_error and calibration_cancelled.
std::vector<double> score_errors(calibration_passes & passes, const head_windows & windows);

} // namespace duo
