#include "calibration-ranks.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

namespace duo {

std::vector<double> ranks(const std::vector<double> & scores) {
    std::vector<double> sorted = scores;
    std::sort(sorted.begin(), sorted.end());
    std::vector<double> r;
    for (const double s : scores) {
        const auto [lo, hi] = std::equal_range(sorted.begin(), sorted.end(), s);
        const double mean = double((lo - sorted.begin()) + (hi - sorted.begin()) - 1) / 2;
        r.push_back(sorted.size() > 1 ? mean / double(sorted.size() - 1) : 1.0);
    }
    return r;
}

std::vector<double> larger_ranks(const std::vector<double> & a, const std::vector<double> & b) {
    std::vector<double> x;
    for (size_t i = 0; i < a.size(); ++i) {
        x.push_back(std::max(a[i], b[i]) + std::min(a[i], b[i]) / double(4 * a.size())); // ranks differ by half of 1 / (n - 1) at least
    }
    return x;
}

std::vector<double> beyond_rounding(const std::vector<double> & losses, const std::vector<int32_t> & n_head_kv) {
    std::vector<double> beyond;
    double noise = INFINITY;
    for (const int32_t n : n_head_kv) {
        const auto first = losses.begin() + int64_t(beyond.size());
        noise = std::accumulate(first, first + n, noise, [](double x, double y) { return std::min(x, y); });
        std::transform(first, first + n, std::back_inserter(beyond), [&](double loss) { return loss - noise; });
    }
    return beyond;
}

} // namespace duo
