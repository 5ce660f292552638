#include "prompt.h"

namespace duo::abi {

prompt::prompt(const char * name, const model & m, const int32_t * tokens, int32_t n_tokens, const void * text, int32_t n_bytes, size_t max_tokens,
        options & o, bool add_special_if_not_said)
    : name(name), is_text(n_tokens < 0) {
    add_special   = o.boolean("addSpecial").value_or(add_special_if_not_said);
    parse_special = o.boolean("parseSpecial").value_or(false);
    if (!is_text) {
        for (int32_t i = 0; i < n_tokens; i++) {
            if (!m.is_token(tokens[i])) {
                throw option_error(name, tokens[i], "tokens from 0 to " + std::to_string(llama_vocab_n_tokens(m.vocab) - 1));
            }
        }
        ids.assign(tokens, tokens + n_tokens);
        return;
    }
    if (!m.has_vocab()) {
        throw option_error(name, "a text", "token ids: the model has no vocabulary");
    }
    if (size_t(n_bytes) / m.max_token_bytes > max_tokens) {
        throw job_error("full", std::string("the ") + name + " has " + std::to_string(n_bytes) + " bytes, and a sequence of the context holds " +
                std::to_string(max_tokens) + " tokens of at most " + std::to_string(m.max_token_bytes) + " bytes");
    }
    this->text.assign(static_cast<const char *>(text), size_t(n_bytes));
}

std::vector<llama_token> prompt::tokens(const job & j, const model & m, size_t min_size) const {
    auto result = is_text ? tokenize(m, text.data(), int32_t(text.size()), add_special, parse_special, &j) : ids;
    if (result.size() < min_size) {
        throw option_error(name, is_text ? json(text) : json(ids), min_size == 1 ? "at least one token" : "at least two tokens");
    }
    return result;
}

} // namespace duo::abi
