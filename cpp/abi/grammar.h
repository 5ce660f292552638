// Grammars of a generation: read, bounded and checked before llama.cpp's sampler gets them.
#pragma once

#include "model.h"
#include "options.h"

#include "common.h"

#include <vector>

namespace duo::abi {

// Reads "grammar", "jsonSchema" and "chat", of which at most one may hold a grammar, into the sampling's parameters.
void read_grammar(options & o, const model & m, common_params_sampling & s);

// The GBNF grammar of JSON that a schema describes. Throws an option_error for `name` where it cannot be one.
std::string grammar_of_schema(const json & schema, const std::string & name);

// Throws an option_error where the grammar does not parse: common_sampler_init leaks then.
void check_grammar(const model & m, const common_params_sampling & s);

// Whether the text of these tokens, which the grammar allows, is one that it describes in full. The sampler does not tell, so they are read again.
bool is_complete(const model & m, const common_params_sampling & s, const std::vector<llama_token> & tokens);

} // namespace duo::abi
