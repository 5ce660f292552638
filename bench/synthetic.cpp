#include "synthetic.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <sstream>

ggml_type type_of(const std::string & name) {
    for (int t = 0; t < GGML_TYPE_COUNT; ++t) {
        if (ggml_type_name(ggml_type(t)) && name == ggml_type_name(ggml_type(t))) {
            return ggml_type(t);
        }
    }
    fprintf(stderr, "--kv is %s; expected cache types such as f16 and q8_0\n", name.c_str());
    exit(2);
}

std::vector<std::string> split(const std::string & list) {
    std::vector<std::string> out;
    std::stringstream in(list);
    for (std::string item; std::getline(in, item, ',');) {
        out.push_back(item);
    }
    return out;
}

double median(std::vector<double> x) {
    std::sort(x.begin(), x.end());
    return x[x.size() / 2];
}

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
