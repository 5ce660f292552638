// Jobs about gate patterns.
#pragma once

#include "gate-pattern.h"
#include "job.h"
#include "options.h"

#include <optional>
#include <string>
#include <vector>

namespace duo::abi {

struct gates_read_options {
    std::optional<std::string> path;
    std::string                text;
    std::string                source;

    static gates_read_options read(options o);
};

struct gates_select_options {
    std::string                         pattern;  // JSON
    std::optional<double>               sparsity;
    std::optional<double>               threshold;
    std::optional<std::vector<int32_t>> n_head_kv;

    static gates_select_options read(options o);
};

struct gates_embed_options {
    std::string pattern; // JSON
    std::string model;
    std::string target;

    static gates_embed_options read(options o);
};

void read_gates  (job & j, const gates_read_options & o);
void select_heads(job & j, const gates_select_options & o);
void embed_gates (job & j, const gates_embed_options & o);

// The job's failure by a pattern that cannot be used; of one for another model, with both shapes.
job_error gates_job_error(const gate_error & e);

// Reads "sparsity" and "threshold", of which at most one may be given.
void read_selection(options & o, std::optional<double> & sparsity, std::optional<double> & threshold);

} // namespace duo::abi
