#include "calibration-record.h"

#include "calibration.h"
#include "gate-text.h"

#include <cerrno>
#include <clocale>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <locale>
#include <sstream>

namespace duo {

// One measurement, whole: a line that an interruption cut short has no line break. Empty where it is something else.
static std::vector<double> parse_line(const std::string & line) {
    std::istringstream in(line);
    in.imbue(std::locale::classic());
    std::vector<double> values;
    for (double x; in >> x;) {
        values.push_back(x);
    }
    return in.eof() ? values : std::vector<double>();
}

static std::string format_line(const std::vector<double> & values) {
    std::ostringstream out;
    out.imbue(std::locale::classic());
    out.precision(17); // the same double again
    for (const double x : values) {
        out << (&x == &values.front() ? "" : " ") << x;
    }
    return out.str();
}

// Whether the file may be written over: a record, the beginning of one, or nothing yet.
static bool is_record(std::istream & in) {
    char begin[64] = {};
    in.read(begin, std::streamsize(strlen(record_magic)));
    const bool is = memcmp(begin, record_magic, size_t(in.gcount())) == 0;
    in.clear();
    in.seekg(0);
    return is;
}

calibration_record::calibration_record(const std::string & path, const std::string & parameters) : path(path) {
    if (path.empty()) {
        return;
    }
    namespace fs = std::filesystem;
    const fs::path where = fs::u8path(path);

    std::ifstream in(where, std::ios::binary);
    if (in && !is_record(in)) {
        throw calibration_error(calibration_error::file, printable(path) + ": this is no file of partial results: it does not begin with \"" + record_magic +
                "\". Name another file, or one that does not exist yet");
    }
    std::string   line;
    size_t        n_whole = 0; // bytes of whole lines
    if (std::getline(in, line) && !in.eof() && line == parameters) {
        n_whole = line.size() + 1;
        while (std::getline(in, line) && !in.eof()) {
            kept.push_back(parse_line(line));
            if (kept.back().empty()) {
                kept.pop_back();
                break;
            }
            n_whole += line.size() + 1;
        }
    }
    in.close();

    const bool goes_on = n_whole > 0;
    if (goes_on) {
        std::error_code ignored; // then the appended lines follow a broken one, and the next run stops reading there
        fs::resize_file(where, n_whole, ignored);
    }
    file.reset(fopen(where.string().c_str(), goes_on ? "ab" : "wb"));
    if (!file) {
        throw calibration_error(calibration_error::file, printable(path) + ": cannot be written: " + strerror(errno) +
                ". Name another file for partial results");
    }
    if (!goes_on) {
        append(parameters);
    }
}

void calibration_record::append(const std::string & line) {
    if (fprintf(file.get(), "%s\n", line.c_str()) < 0 || fflush(file.get()) != 0) {
        throw calibration_error(calibration_error::file, printable(path) + ": cannot be written: " + strerror(errno));
    }
}

std::vector<double> calibration_record::next(size_t n_values, const std::function<std::vector<double>()> & measure) {
    if (n_taken < kept.size()) {
        const auto & values = kept[n_taken++];
        if (values.size() != n_values) {
            throw calibration_error(calibration_error::file, printable(path) + ", line " + std::to_string(n_taken + 1) + ": " + std::to_string(values.size()) +
                    " numbers; expected " + std::to_string(n_values) + ". The file is damaged: remove it to begin anew");
        }
        return values;
    }
    const std::vector<double> values = measure();
    if (file) {
        append(format_line(values));
    }
    return values;
}

} // namespace duo
