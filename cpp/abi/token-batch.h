// Tokens of several sequences that are computed together.
#pragma once

#include "llama.h"

#include <cstdint>
#include <vector>

namespace duo::abi {

class token_batch {
public:
    void add(llama_token token, size_t position, llama_seq_id id, bool output) {
        tokens.push_back(token);
        positions.push_back(llama_pos(position));
        ids.push_back(id);
        outputs.push_back(output);
    }

    bool empty() const { return tokens.empty(); }

    // Valid until something is added.
    llama_batch view() {
        n_ids.assign(tokens.size(), 1);
        id_of.resize(tokens.size());
        for (size_t i = 0; i < tokens.size(); i++) {
            id_of[i] = &ids[i];
        }
        return { int32_t(tokens.size()), tokens.data(), nullptr, positions.data(), n_ids.data(), id_of.data(), outputs.data() };
    }

private:
    std::vector<llama_token>    tokens;
    std::vector<llama_pos>      positions;
    std::vector<llama_seq_id>   ids;
    std::vector<int8_t>         outputs;
    std::vector<int32_t>        n_ids;
    std::vector<llama_seq_id *> id_of;
};

} // namespace duo::abi
