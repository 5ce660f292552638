// Measurements of a calibration, kept in a file so that one that was interrupted goes on where it stopped.
#pragma once

#include <cstddef>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace duo {

// What the file of any calibration begins with.
constexpr const char * record_magic = "llama-duo calibration ";

// A calibration asks for its measurements in an order that depends on its parameters and earlier measurements alone, so the file is a list: a line that names
// the parameters, then a line of numbers for each measurement.
class calibration_record {
public:
    // parameters: a line that begins with record_magic. path "": nothing is kept. A file of other parameters is begun anew. Throws calibration_error where
    // it cannot be written, and where it is something else than such a file.
    calibration_record(const std::string & path, const std::string & parameters);

    // The next measurement, of so many numbers: from the file as long as it has any, else measured and appended. Throws calibration_error where the file has
    // another number of them.
    std::vector<double> next(size_t n_values, const std::function<std::vector<double>()> & measure);

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
