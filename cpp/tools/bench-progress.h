// How far `llama bench` has read many tokens, and how much time is left.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

class bench_progress {
public:
    // Begins to count.
    explicit bench_progress(int n_tokens = 0) : n_tokens(n_tokens) {}

    // Whether another sixteenth is done.
    bool is_due(int n_done) const { return part(n_done) > part(points.back().n); }

    // Speed since the last time and on average, and what is left.
    std::string tell(int n_done);

    // What was done after how many seconds.
    struct point {
        int    n;
        double seconds;
    };

    // From two points and the origin, where nothing was done.
    static double seconds_left(const point & half, const point & last, int n_tokens);

private:
    using clock = std::chrono::steady_clock;

    int    part(int n) const { return int(16 * int64_t(n) / n_tokens); }

    int                n_tokens;
    clock::time_point  start  = clock::now();
    std::vector<point> points = { { 0, 0 } };
};
