// Measurements of a calibration, kept in a file so that one that was interrupted goes on where it stopped.
#pragma once

#include <cstddef>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace duo {

// What the file of any calibration begins with.
constexpr const char * record_magic = "llama-duo calibration ";

// The file is a line that names the parameters, then a line for each measurement: a checksum, the measurement's key, its numbers. The checksum is of the
// parameters, too. So a line says by itself what it is, and whether it is whole: several runs may write to one file, in any order, and a line that an
// interruption cut short is measured again.
class calibration_record {
public:
    // parameters: a line that begins with record_magic, of "name value" with commas between. path "": nothing is kept. Throws calibration_error where the
    // file cannot be written, is something else, or has measurements of other parameters, which it never discards.
    calibration_record(const std::string & path, const std::string & parameters);

    // The measurement with a key of no spaces and so many numbers: from the file if it is there, else measured and appended.
    std::vector<double> get(const std::string & key, size_t n_values, const std::function<std::vector<double>()> & measure);

private:
    struct close { void operator()(FILE * file) const { fclose(file); } };

    const std::string path;
    const std::string parameters;
    std::unordered_map<std::string, std::vector<double>> kept; // by key
    std::unique_ptr<FILE, close> file; // null: nothing is kept

    void read(std::istream & in);
    std::string checksum(const std::string & rest) const;
    void append(const std::string & text);
};

} // namespace duo
