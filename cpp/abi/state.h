// A sequence's state outside of its context: bytes or a file that say what they are of, and that nothing else takes.
//
//   | fixed part | what it is of (JSON) | tokens | what the cache holds, in llama.cpp's form |
#pragma once

#include "context.h"
#include "task.h"

#include <string>
#include <vector>

namespace duo::abi {

// Where a state goes or comes from: a file, or, where the path is empty, bytes.
struct state_place {
    std::string       path;
    std::vector<char> bytes;
};

// The tasks of llama_duo_sequence_save and _load.
std::shared_ptr<task> save_task(std::shared_ptr<job> j, const context & c, std::shared_ptr<sequence> s, std::string path);
std::shared_ptr<task> load_task(std::shared_ptr<job> j, const context & c, std::shared_ptr<sequence> s, state_place from);

} // namespace duo::abi
