// Measurements of a calibration, kept in a file so that one that was interrupted goes on where it stopped.
#pragma once

#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace duo {

// A calibration asks for its measurements in an order that depends on its parameters and earlier measurements alone, so the file is a list: a line that names
// the parameters, then a line of numbers for each measurement.
class calibration_record {
public:
    // path "": nothing is kept. A file of other parameters, or that is no such file, is begun anew. Throws calibration_error where it cannot be written.
    calibration_record(const std::string & path, const std::string & parameters);

    // The next measurement: from the file as long as it has any, else measured and appended.
    std::vector<double> next(const std::function<std::vector<double>()> & measure);

    // Measurements that the file still holds.
    size_t n_kept() const { return kept.size() - n_taken; }

private:
    struct close { void operator()(FILE * file) const { fclose(file); } };

    const std::string                path;
    std::vector<std::vector<double>> kept;
    size_t                           n_taken = 0;
    std::unique_ptr<FILE, close>     file; // null: nothing is kept

    void append(const std::string & line);
};

} // namespace duo
