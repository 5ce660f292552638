// Gate patterns within GGUF files.
#pragma once

#include "gate-pattern.h"

#include <functional>
#include <string>

namespace duo {

// The metadata key of an embedded pattern: a string, its JSON.
constexpr const char * gguf_pattern_key = "llama_duo.pattern";

// Whether the file begins as a GGUF file does. The path is UTF-8.
bool is_gguf(const std::string & path);

// The pattern in a GGUF file's metadata. Throws gate_error.
gate_pattern read_gguf_pattern(const std::string & path);

// Copies the model to `target` with the pattern in its metadata, in place of the one that it has, if any. A split model is copied with all of its files; `model` and
// `target` name the first, which gets the pattern. The target is there, whole, or not at all. progress(share done), 0 to 1: false stops. Returns false where it
// was stopped. Throws gate_error: a file that cannot be read or written, or is named as no first one, a pattern of another shape.
bool embed_gate_pattern(const gate_pattern & pattern, const std::string & model, const std::string & target, const std::function<bool(double)> & progress);

} // namespace duo
