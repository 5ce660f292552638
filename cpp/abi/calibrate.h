// The job of llama_duo_calibrate.
#pragma once

#include "model.h"
#include "options.h"

#include "calibration.h"

namespace duo::abi {

struct calibrate_options {
    calibration_params params;

    static calibrate_options read(options o, const model & m);
};

void calibrate_model(job & j, const model & m, calibrate_options o);

} // namespace duo::abi
