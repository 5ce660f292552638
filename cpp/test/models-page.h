// docs/models.md, written from what the tests are about: it cannot say anything else than they do.
#pragma once

#include "llama.h"

#include <string>

// The page. Throws std::runtime_error where an architecture of llama.cpp is neither tested nor refused.
std::string models_page();

// Architectures that llama.cpp itself makes no contexts of.
bool has_no_contexts(const std::string & architecture);
