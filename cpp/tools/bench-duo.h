// What this project adds to `llama bench`, which has a parser of its own: the --duo-* flags, random models (--shape) and caches that nothing was computed
// for (--fill), with what they take of memory and bandwidth. Where none of these flags was given the output is stock's.
//
// The --duo-* flags are the other tools' flags and variables, and take several values each: every combination is measured, and a flag that was given is a
// column of the output.
//
// What was given is kept for the process, as bench keeps its fields.
#pragma once

#include "common-duo.h"
#include "llama.h"

#include <string>
#include <vector>

// Bench's reader of counts: "256,2048" and "64-256*2".
using bench_duo_read_counts = std::vector<int> (*)(const std::string & text, bool allow_negative);

// The flags' part of bench's help.
void bench_duo_print_usage();

// Takes argv[i] and its value, to which it moves i, if it is one of the flags; else false. Throws std::invalid_argument, which names the value.
bool bench_duo_parse(int argc, char ** argv, int & i, bench_duo_read_counts read_counts);

// After the last argument: the LLAMA_ARG_DUO_* variables of flags that were not given, and the paths of --shape's models. Ends the process where a variable
// is wrong, as bench does.
void bench_duo_read_variables(bench_duo_read_counts read_counts, std::vector<std::string> & models);

// One combination of the values that were given.
struct bench_duo_values {
    common_params_duo        duo;
    std::vector<std::string> texts; // of the columns
};

// All of them, of which the last flag's values change first. One without mixed heads where no flag was given.
std::vector<bench_duo_values> bench_duo_combinations();

// Ends the process where a combination cannot be measured with one of these values, with the reason that the other tools have. Then writes --shape's models, and
// looks at what the devices' memory has and gives.
void bench_duo_begin(const std::vector<llama_flash_attn_type> & flash_attns, const std::vector<llama_split_mode> & split_modes);

// --- tests ---

// Before a test's model is loaded. Ends the process where --shape or --fill was given and the context does not fit, with what would.
void bench_duo_plan(const std::string & model, const llama_model_params & mparams, const llama_context_params & cparams);

// Fills the empty cache up to the depth where --fill was given, or ends the process where it cannot. False: the depth is to be computed.
bool bench_duo_fill(llama_context * ctx, int depth);

// Tells how far what is read is, if that was asked for with flags of ours, and returns n_done. To be called with 0 and after each batch. What is read, a prompt, a
// warm-up or a depth that is computed, bench has said before.
int bench_duo_tell_progress(llama_context * ctx, int n_done, int n_tokens);

// After a test that took so long on average: what it took, as further values, and in words for a report. Nothing without --shape or --fill.
void bench_duo_measure(bench_duo_values & values, const llama_context * ctx, int n_prompt, int n_gen, int n_depth, uint64_t avg_ns);

// Prints the last test's report on stderr, below its results.
void bench_duo_print_report();

// --- columns ---

// The names of the flags that were given, as fields: duo_sparsity.
std::vector<std::string> bench_duo_columns();

// The same with what bench_duo_measure adds: for all formats but tables.
std::vector<std::string> bench_duo_fields();

// Bench's fields and the columns, or the values of both.
std::vector<std::string> bench_duo_append(std::vector<std::string> list, const std::vector<std::string> & ours);

bool bench_duo_is_count (const std::string & field);
bool bench_duo_is_number(const std::string & field); // and no count

// --- errors ---

// Hears llama.cpp's log, which bench drops. With mixed heads the last error is kept: a model or a pattern may be refused.
void bench_duo_keep_error(ggml_log_level level, const char * text);

// Prints that error, if there is one.
void bench_duo_print_error();
