#include "duo-heads.h"

#include "llama-context.h"
#include "llama-memory-hybrid-duo.h"

#include <stdexcept>

void duo_set_windows(llama_context * ctx, const std::vector<std::vector<int32_t>> & windows) {
    if (!ctx->get_cparams().duo || !ctx->get_memory()) {
        throw std::runtime_error("heads can be given windows only in a context with mixed heads");
    }
    ctx->synchronize();
    duo_cache_in(ctx->get_memory())->set_windows(windows);
}
