// Mixed heads in llama.cpp's server: what it says of them in its log, at /props and at /metrics. Nothing where they are off.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <string>

class common_json;
struct common_prompt_checkpoint;
struct llama_context;

// What /props has as "duo"; null: the context has no mixed heads.
common_json server_duo_props(const llama_context * ctx);

// A part of the server's metrics.
struct server_duo_metrics {
    bool enabled = false;

    // Tokens of prompts that a slot held already and that were processed again.
    uint64_t n_processed_again = 0;

    // As they are now, and not summed up.
    uint64_t n_cells_retrieval  = 0;
    uint64_t n_cells_streaming  = 0;
    uint64_t n_cells_windowed   = 0;
    uint64_t n_checkpoint_bytes = 0;

    // The server has loaded its model: what /props has, in the log.
    void start(const llama_context * ctx);

    // Counts the cells that hold a token. Nothing may be computing.
    void count_cells(const llama_context * ctx);

    // A slot held the prompt's first n_held tokens, and goes on behind the first n_reused.
    void add_prompt(int id_slot, int n_held, int n_reused);

    void add_checkpoints(const std::list<common_prompt_checkpoint> & checkpoints);

    // The model is unloaded.
    void stop();

    // In Prometheus' text format.
    std::string to_text() const;
};
