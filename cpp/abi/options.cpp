#include "options.h"

#include "utf8.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <sstream>

namespace duo::abi {

static constexpr size_t longest_value = 80; // bytes of a value that a message shows

template <class T> static std::string range(const char * kind, T min, T max, bool bounded) {
    std::ostringstream out;
    if (bounded) {
        out << kind << " from " << min << " to " << max;
    } else {
        out << kind << " of at least " << min;
    }
    return out.str();
}

job_error option_error(const std::string & name, const json & value, const std::string & expected) {
    return job_error("option", "option \"" + name + "\" is " + excerpt(dump(value), longest_value) + ", expected " + expected,
            { { "name", name }, { "value", value }, { "expected", expected } });
}

options options::parse(const void * text, int32_t len) {
    const char * begin = static_cast<const char *>(text);

    const auto refuse = [&](const std::string & problem, const std::string & expected) {
        const std::string given(begin, size_t(len));
        throw job_error("option", problem + ": " + excerpt(dump(given), longest_value), { { "name", "" }, { "value", given }, { "expected", expected } });
    };
    // parsing is a loop, but copying and printing what was parsed recurse
    const auto check_depth = [&](int depth, json::parse_event_t event, const json &) {
        constexpr int deepest = 64;
        if (depth >= deepest && (event == json::parse_event_t::object_start || event == json::parse_event_t::array_start)) {
            refuse("options are nested more than " + std::to_string(deepest) + " deep", "at most " + std::to_string(deepest) + " arrays and objects within each other");
        }
        return true;
    };
    json values;
    try {
        values = json::parse(begin, begin + len, check_depth);
    } catch (const json::parse_error & e) {
        const std::string what = e.what(); // after the library's own tag
        refuse("options are not JSON (" + excerpt(what.substr(what.find("] ") + 2), 200) + ")", "a JSON object");
    }
    if (!values.is_object()) {
        refuse("options are not a JSON object", "a JSON object");
    }
    return options(std::move(values), "");
}

const json * options::value(const char * key) {
    if (std::find(known.begin(), known.end(), key) == known.end()) {
        known.push_back(key);
    }
    const auto it = values.find(key);
    return it == values.end() ? nullptr : &*it;
}

job_error options::error(const char * key, const std::string & expected) const {
    return option_error(prefix + key, values.contains(key) ? values[key] : json(), expected);
}

std::optional<bool> options::boolean(const char * key) {
    const json * v = value(key);
    if (!v) {
        return {};
    }
    if (!v->is_boolean()) {
        throw error(key, "true or false");
    }
    return v->get<bool>();
}

std::optional<int64_t> options::integer(const char * key, int64_t min, int64_t max) {
    const json * v = value(key);
    if (!v) {
        return {};
    }
    const auto expected = range("an integer", min, max, max != INT32_MAX);
    // JavaScript writes large whole numbers as 1e21, and a number is one whatever its spelling
    const double d = v->is_number() ? v->get<double>() : NAN;
    if (!(d >= double(min) && d <= double(max) && d == std::floor(d))) {
        throw error(key, expected);
    }
    return int64_t(d);
}

std::optional<double> options::number(const char * key, double min, double max) {
    const json * v = value(key);
    if (!v) {
        return {};
    }
    const double d = v->is_number() ? v->get<double>() : NAN;
    if (!(d >= min && d <= max)) {
        throw error(key, min <= -FLT_MAX ? "a finite number" : range("a number", min, max, max < FLT_MAX));
    }
    return d;
}

std::optional<std::string> options::string(const char * key) {
    const json * v = value(key);
    if (!v) {
        return {};
    }
    if (!v->is_string()) {
        throw error(key, "a string");
    }
    return v->get<std::string>();
}

std::optional<std::string> options::path(const char * key) {
    const auto text = string(key);
    if (text && (text->empty() || text->find('\0') != std::string::npos)) {
        throw error(key, "a path");
    }
    return text;
}

std::optional<std::string> options::one_of(const char * key, const std::vector<std::string> & choices) {
    const json * v = value(key);
    if (!v) {
        return {};
    }
    if (!v->is_string() || std::find(choices.begin(), choices.end(), v->get<std::string>()) == choices.end()) {
        std::string expected = "one of";
        for (const auto & choice : choices) {
            expected += (&choice == &choices.front() ? " " : ", ") + choice;
        }
        throw error(key, expected);
    }
    return v->get<std::string>();
}

std::optional<options> options::object(const char * key) {
    const json * v = value(key);
    if (!v) {
        return {};
    }
    if (!v->is_object()) {
        throw error(key, "an object");
    }
    return options(*v, prefix + key + ".");
}

void options::finish() const {
    for (const auto & [key, value] : values.items()) {
        if (std::find(known.begin(), known.end(), key) == known.end()) {
            std::string expected = "no such option; known are";
            for (const auto & k : known) {
                expected += (&k == &known.front() ? " " : ", ") + k;
            }
            throw job_error("option", "unknown option \"" + prefix + key + "\"" + expected.substr(strlen("no such option")),
                    { { "name", prefix + key }, { "value", value }, { "expected", expected } });
        }
    }
}

} // namespace duo::abi
