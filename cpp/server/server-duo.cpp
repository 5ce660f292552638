#include "server-duo.h"

#include "duo-report.h"

#include "common.h"
#include "json.h"
#include "log.h"

#include <algorithm>
#include <cinttypes>
#include <initializer_list>
#include <utility>

common_json server_duo_props(const llama_context * ctx) {
    if (!duo_has_mixed_heads(ctx)) {
        return nullptr;
    }
    const duo_pattern_origin pattern = duo_pattern_of(ctx);
    const duo_kv_size kv = duo_kv_size_of(ctx);
    return common_json {
        { "pattern", common_json {
            { "name",       pattern.name.empty()       ? common_json(nullptr) : common_json(pattern.name) },
            { "provenance", pattern.provenance.empty() ? common_json(nullptr) : common_json::parse(pattern.provenance) },
        } },
        { "heads", common_json {
            { "retrieval", kv.n_retrieval },
            { "streaming", kv.n_streaming },
            { "windowed",  kv.n_windowed },
        } },
        { "window", common_json {
            { "sink",   kv.sink },
            { "recent", kv.recent },
            { "chunk",  kv.chunk },
        } },
        { "slot_cells", common_json {
            { "retrieval", kv.n_ctx_seq },
            { "streaming", kv.n_cells_streaming },
            { "windowed",  kv.n_cells_windowed },
        } },
        { "kv_bytes", common_json {
            { "retrieval", kv.retrieval_bytes },
            { "streaming", kv.streaming_bytes },
            { "windowed",  kv.windowed_bytes },
            { "recurrent", kv.recurrent_bytes },
            { "total",     kv.total_bytes },
            { "full",      kv.full_bytes },
        } },
    };
}

void server_duo_metrics::start(const llama_context * ctx) {
    enabled = duo_has_mixed_heads(ctx);
    if (!enabled) {
        return;
    }
    count_cells(ctx);
    const duo_pattern_origin pattern = duo_pattern_of(ctx);
    const duo_kv_size kv = duo_kv_size_of(ctx);
    const auto mib = [](uint64_t bytes) { return double(bytes) / 1024 / 1024; };
    LOG_INF("mixed heads: the pattern is %s, of %s\n", pattern.name.empty() ? "none" : pattern.name.c_str(),
            pattern.provenance.empty() ? "unknown provenance" : pattern.provenance.c_str());
    LOG_INF("mixed heads: %u KV heads keep every token, %u stream (sink %d, recent %d, chunk %d), %u have the model's own sliding windows\n",
            kv.n_retrieval, kv.n_streaming, kv.sink, kv.recent, kv.chunk, kv.n_windowed);
    LOG_INF("mixed heads: the KV cache takes %.2f MiB (retrieval %.2f, streaming %.2f, windowed %.2f), of %.2f MiB with every head full; recurrent states %.2f MiB\n",
            mib(kv.total_bytes), mib(kv.retrieval_bytes), mib(kv.streaming_bytes), mib(kv.windowed_bytes), mib(kv.full_bytes), mib(kv.recurrent_bytes));
}

void server_duo_metrics::count_cells(const llama_context * ctx) {
    const duo_cells held = duo_cells_held(ctx);
    n_cells_retrieval = held.retrieval;
    n_cells_streaming = held.streaming;
    n_cells_windowed  = held.windowed;
}

void server_duo_metrics::add_prompt(int id_slot, int n_held, int n_reused) {
    const int n_again = std::max(0, n_held - n_reused);
    if (!enabled || n_again == 0) {
        return;
    }
    n_processed_again += n_again;
    if (n_again > 1) { // the last token is, where a slot holds the whole prompt: it gives the first logits
        LOG_INF("slot %d: %d of the prompt's %d tokens that are held are processed again, from position %d on: what streaming heads hold does not go back to all of them\n",
                id_slot, n_again, n_held, n_reused);
    }
}

void server_duo_metrics::add_checkpoints(const std::list<common_prompt_checkpoint> & checkpoints) {
    for (const common_prompt_checkpoint & checkpoint : checkpoints) {
        n_checkpoint_bytes += checkpoint.size();
    }
}

void server_duo_metrics::stop() {
    n_cells_retrieval = n_cells_streaming = n_cells_windowed = n_checkpoint_bytes = 0;
}

std::string server_duo_metrics::to_text() const {
    if (!enabled) {
        return "";
    }
    std::string text;
    const auto add = [&](const char * name, const char * type, const char * help, std::initializer_list<std::pair<const char *, uint64_t>> values) {
        text += string_format("# HELP llamacpp:%s %s\n# TYPE llamacpp:%s %s\n", name, help, name, type);
        for (const auto & [label, value] : values) {
            text += string_format("llamacpp:%s%s %" PRIu64 "\n", name, label, value);
        }
    };
    add("duo_prompt_tokens_again_total", "counter", "Prompt tokens that a slot held already and that were processed again", { { "", n_processed_again } });
    add("duo_cells_held", "gauge", "Cells that hold a token; a cell is a KV head's place for one token", {
        { "{heads=\"retrieval\"}", n_cells_retrieval },
        { "{heads=\"streaming\"}", n_cells_streaming },
        { "{heads=\"windowed\"}",  n_cells_windowed },
    });
    add("duo_checkpoint_bytes", "gauge", "Bytes of context checkpoints, of slots and of stored prompts", { { "", n_checkpoint_bytes } });
    return text;
}
