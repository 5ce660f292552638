// The --duo-* flags of `llama bench`, which has a parser of its own. They are the other tools' flags and variables, and take several values each: every
// combination is measured, and a flag that was given is a column of the output. Where none was given the output is stock's.
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

// After the last argument: the LLAMA_ARG_DUO_* variables of flags that were not given. Ends the process where one is wrong, as bench does.
void bench_duo_read_variables(bench_duo_read_counts read_counts);

// One combination of the values that were given.
struct bench_duo_values {
    common_params_duo        duo;
    std::vector<std::string> texts; // of the columns
};

// All of them, of which the last flag's values change first. One without mixed heads where no flag was given.
std::vector<bench_duo_values> bench_duo_combinations();

// Ends the process where a combination cannot be measured with one of these values, with the reason that the other tools have.
void bench_duo_check(const std::vector<llama_flash_attn_type> & flash_attns, const std::vector<llama_split_mode> & split_modes);

// --- columns ---

// The names of the flags that were given, as fields: duo_sparsity.
std::vector<std::string> bench_duo_columns();

// Bench's fields and the columns, or the values of both.
std::vector<std::string> bench_duo_append(std::vector<std::string> list, const std::vector<std::string> & ours);

bool bench_duo_is_count (const std::string & field);
bool bench_duo_is_number(const std::string & field); // and no count

// --- errors ---

// Hears llama.cpp's log, which bench drops. With mixed heads the last error is kept: a model or a pattern may be refused.
void bench_duo_keep_error(ggml_log_level level, const char * text);

// Prints that error, if there is one.
void bench_duo_print_error();
