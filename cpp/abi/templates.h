// Chats by llama.cpp's own template engine: messages become a prompt, and what is generated becomes a message.
#pragma once

#include "model.h"
#include "options.h"

namespace duo::abi {

// The work of llama_duo_chat_apply, _chat_parse and _schema_grammar.
void apply_template(job & j, const model & m, options o);
void parse_message (job & j, options o);
void convert_schema(job & j, options o);

} // namespace duo::abi
