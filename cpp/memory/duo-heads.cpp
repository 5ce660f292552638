#include "duo-heads.h"

#include "llama-context.h"
#include "llama-memory-hybrid-duo.h"

#include <stdexcept>

void duo_set_windowed(llama_context * ctx, const std::vector<std::vector<uint8_t>> & windowed) {
    if (!ctx->get_cparams().duo || !ctx->get_memory()) {
        throw std::runtime_error("heads can be windowed only in a context with mixed heads");
    }
    ctx->synchronize();
    duo_cache_in(ctx->get_memory())->set_windowed(windowed);
}
