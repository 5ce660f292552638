// What the benchmarks share, beside cpp/synthetic.
#pragma once

#include "shapes.h"
#include "synthetic-cache.h"

#include "ggml.h"

#include <string>
#include <vector>

// Exits with 2 where ggml has no such type.
ggml_type type_of(const std::string & name);

// The first of "a,b,c", and so on.
std::vector<std::string> split(const std::string & list);

double median(std::vector<double> x);

// Seconds since some moment.
double now();
