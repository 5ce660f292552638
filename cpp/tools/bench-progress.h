// How far a long prompt of `llama bench` is, and how much time is left.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

class bench_progress {
public:
    // Begins to count.
    explicit bench_progress(int n_prompt = 0) : n_prompt(n_prompt) {}

    // Whether another sixteenth is done.
    bool is_due(int n_done) const { return part(n_done) > part(points.back().n); }

    // Speed since the last time and on average, and what is left.
    std::string tell(int n_done);

private:
    using clock = std::chrono::steady_clock;
    struct point {
        int    n;
        double seconds;
    };

    int    part(int n) const { return int(16 * int64_t(n) / n_prompt); }
    double seconds_left() const;

    int                n_prompt;
    clock::time_point  start  = clock::now();
    std::vector<point> points = { { 0, 0 } };
};
