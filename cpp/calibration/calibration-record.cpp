#include "calibration-record.h"

#include "calibration.h"
#include "fnv1a.h"
#include "gate-text.h"

#include <cerrno>
#include <clocale>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <locale>
#include <map>
#include <sstream>

namespace duo {

static calibration_error file_error(const std::string & path, const std::string & problem) {
    return calibration_error(calibration_error::file, printable(path) + ": " + problem);
}

// --- parameters ---

// "a 1, b 2" as { a: 1, b: 2 }.
static std::map<std::string, std::string> fields_of(const std::string & line) {
    std::map<std::string, std::string> fields;
    std::istringstream in(line.substr(strlen(record_magic)));
    for (std::string field; std::getline(in, field, ',');) {
        const size_t begin = field.find_first_not_of(' '), space = field.find(' ', begin);
        if (space != std::string::npos) {
            fields[field.substr(begin, space - begin)] = field.substr(space + 1);
        }
    }
    return fields;
}

static std::string differences(const std::string & there, const std::string & here) {
    if (there.substr(0, there.find(',')) != here.substr(0, here.find(','))) {
        return "by another version of llama-duo";
    }
    const auto a = fields_of(there), b = fields_of(here);
    std::string text;
    for (const auto & [name, value] : b) {
        const auto found = a.find(name);
        if (found != a.end() && found->second != value) {
            // hashes tell a reader nothing
            const bool is_hash = name == "model" || name == "samples";
            text += (text.empty() ? "" : ", ") + (is_hash ? "other " + name : name + " " + excerpt(found->second) + " there and " + value + " here");
        }
    }
    return text;
}

// --- lines ---

static std::string format_values(const std::vector<double> & values) {
    std::ostringstream out;
    out.imbue(std::locale::classic());
    out.precision(17); // the same double again
    for (const double x : values) {
        out << ' ' << x;
    }
    return out.str();
}

std::string calibration_record::checksum(const std::string & rest) const {
    const uint64_t hash = fnv1a(rest.data(), rest.size(), fnv1a(parameters.data(), parameters.size()));
    char text[17];
    snprintf(text, sizeof(text), "%016llx", (unsigned long long) hash);
    return text;
}

// Lines that are not whole, or not of these parameters, are passed over: there is nothing to be had from them.
void calibration_record::read(std::istream & in) {
    for (std::string line; std::getline(in, line);) {
        const size_t space = line.find(' ');
        if (space == std::string::npos || line.substr(0, space) != checksum(line.substr(space + 1))) {
            continue;
        }
        std::istringstream rest(line.substr(space + 1));
        rest.imbue(std::locale::classic());
        std::string key;
        rest >> key;
        std::vector<double> values;
        for (double x; rest >> x;) {
            values.push_back(x);
        }
        kept.emplace(key, values);
    }
}

// One call of write: lines that several processes append do not run into each other.
void calibration_record::append(const std::string & text) {
    if (fwrite(text.data(), 1, text.size(), file.get()) != text.size()) {
        throw calibration_error(calibration_error::output, printable(path) + " cannot be written: " + strerror(errno) +
                ". What was measured until now is in it: make room, and give the same options to go on");
    }
}

// --- the record ---

calibration_record::calibration_record(const std::string & path, const std::string & parameters) : path(path), parameters(parameters) {
    if (path.empty()) {
        return;
    }
    const std::filesystem::path where = std::filesystem::u8path(path);

    std::ostringstream content;
    if (std::ifstream in{where, std::ios::binary}) {
        content << in.rdbuf();
    }
    const std::string text = content.str();
    if (text.compare(0, strlen(record_magic), record_magic, std::min(text.size(), strlen(record_magic))) != 0) {
        throw file_error(path, std::string("this is no file of partial results: it does not begin with \"") + record_magic +
                "\". Name another file, or one that does not exist yet");
    }
    const size_t first_end = text.find('\n');
    const bool   has_first = first_end != std::string::npos; // else nothing has been measured yet
    if (has_first && text.compare(0, first_end, parameters) != 0) {
        throw file_error(path, "it has measurements that were made with other options (" + differences(text.substr(0, first_end), parameters) +
                "). Give those options to go on from them, or remove the file to begin anew");
    }
    std::istringstream in(text);
    read(in);

    // several runs may begin at once, so a file is made empty only where it has the beginning of a first line and nothing else
    file.reset(fopen(where.string().c_str(), has_first || text.empty() ? "ab" : "wb"));
    if (!file) {
        throw file_error(path, std::string("cannot be written: ") + strerror(errno) + ". Name another file for partial results");
    }
    setvbuf(file.get(), nullptr, _IONBF, 0);
    if (!has_first) {
        append(parameters + "\n");
    } else if (text.back() != '\n') {
        append("\n"); // what follows is apart from the line that was cut short
    }
}

std::vector<double> calibration_record::get(const std::string & key, size_t n_values, const std::function<std::vector<double>()> & measure) {
    const auto found = kept.find(key);
    if (found != kept.end() && found->second.size() == n_values) {
        return found->second;
    }
    const std::vector<double> values = measure();
    if (file) {
        const std::string rest = key + format_values(values);
        append(checksum(rest) + " " + rest + "\n");
    }
    kept[key] = values; // methods may ask again
    return values;
}

} // namespace duo
