#include "bench-progress.h"

#include "common.h"

#include <algorithm>

static std::string in_words(double seconds) {
    const long s = long(seconds + 0.5);
    return s < 120 ? string_format("%ld s", s) : s < 7200 ? string_format("%ld min %ld s", s / 60, s % 60) : string_format("%ld h %ld min", s / 3600, s / 60 % 60);
}

// Time is a n + b n^2: each token takes a share of its own, and one of every token before it.
double bench_progress::seconds_left(const point & half, const point & last, int n_tokens) {
    double b = 0;
    if (half.n < last.n) {
        b = std::max(0.0, (last.seconds / last.n - half.seconds / half.n) / (last.n - half.n));
    }
    const double a = last.seconds / last.n - b * last.n;
    return (a + b * n_tokens) * n_tokens - last.seconds;
}

std::string bench_progress::tell(int n_done) {
    const point before = points.back();
    points.push_back({ n_done, std::chrono::duration<double>(clock::now() - start).count() });
    const double seconds = points.back().seconds;
    return string_format("%d of %d tokens (%d%%): %.1f t/s since %d, %.1f t/s on average, %s passed", n_done, n_tokens, int(100 * int64_t(n_done) / n_tokens),
                   (n_done - before.n) / (seconds - before.seconds), before.n, n_done / seconds, in_words(seconds).c_str()) +
           (n_done < n_tokens ? ", " + in_words(seconds_left(points[points.size() / 2], points.back(), n_tokens)) + " left" : "");
}
