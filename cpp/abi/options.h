// Reading of an options object, with every value checked and every key known.
#pragma once

#include "job.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace duo::abi {

// A job_error with code "option".
job_error option_error(const std::string & name, const json & value, const std::string & expected);

class options {
public:
    // Throws job_error unless the text is a JSON object.
    static options parse(const void * text, int32_t len);

    std::optional<bool>        boolean(const char * key);
    std::optional<int64_t>     integer(const char * key, int64_t min, int64_t max);
    std::optional<double>      number(const char * key, double min, double max);
    std::optional<std::string> string(const char * key);
    std::optional<std::string> path(const char * key); // a string that can be one
    std::optional<std::string> one_of(const char * key, const std::vector<std::string> & choices);
    std::optional<options>     object(const char * key);

    // Any value, for what needs its own checks; a null pointer where the key is absent. A key that is JSON's null is there, with a value of no right type.
    const json * value(const char * key);

    // All values, for an object whose keys are the caller's own.
    const json & all() const { return values; }

    // For those checks.
    job_error error(const char * key, const std::string & expected) const;

    // To be called last: refuses keys that nobody asked for.
    void finish() const;

private:
    options(json values, std::string prefix) : values(std::move(values)), prefix(std::move(prefix)) {}

    json                     values;
    std::string              prefix;  // "duo." within that option
    std::vector<std::string> known;
};

} // namespace duo::abi
