// Whether a model can have mixed heads.
#pragma once

#include "llama.h"

#include <string>
#include <vector>

// Types that the cache's rows may have: those of llama.cpp's -ctk and -ctv.
const std::vector<ggml_type> & duo_cache_types();

// That of this name; GGML_TYPE_COUNT: none is.
ggml_type duo_type_named(const std::string & name);

// Why this model with these parameters cannot have mixed heads, in words for a user, or "" if it can. Of params.duo it looks at the layers of finer K rows.
std::string duo_unsupported(const llama_model * model, const llama_context_params & params);

// False, and an error in the log that says why, where mixed heads cannot apply. Called before anything is allocated.
bool duo_check_supported(const llama_model * model, const llama_context_params & params);
