#include "calibration-regression.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <utility>

namespace duo {

using matrix = std::vector<std::vector<double>>;

// L of a symmetric positive definite matrix L L^T, in its lower triangle (Cholesky).
static void factorise(matrix & a) {
    for (size_t i = 0; i < a.size(); ++i) {
        for (size_t j = 0; j <= i; ++j) {
            const double rest = a[i][j] - std::inner_product(a[j].begin(), a[j].begin() + j, a[i].begin(), 0.0);
            a[i][j] = i == j ? std::sqrt(rest) : rest / a[j][j];
        }
    }
}

// L^-1 b, where all of b before begin is 0.
static std::vector<double> solve(const matrix & l, std::vector<double> b, size_t begin = 0) {
    for (size_t i = begin; i < b.size(); ++i) {
        b[i] = (b[i] - std::inner_product(b.begin() + begin, b.begin() + i, l[i].begin() + begin, 0.0)) / l[i][i];
    }
    return b;
}

// L^-T b
static std::vector<double> solve_transposed(const matrix & l, std::vector<double> b) {
    for (size_t i = b.size(); i-- > 0;) {
        b[i] /= l[i][i];
        for (size_t k = 0; k < i; ++k) {
            b[k] -= l[i][k] * b[i];
        }
    }
    return b;
}

// Takes the columns' means away: what is left needs no intercept.
static void centre(matrix & x) {
    for (size_t c = 0; c < x[0].size(); ++c) {
        double mean = 0;
        for (const auto & row : x) {
            mean += row[c] / double(x.size());
        }
        for (auto & row : x) {
            row[c] -= mean;
        }
    }
}

std::vector<double> ridge_regression(matrix x, const std::vector<double> & y, const std::function<void()> & before_each) {
    const size_t n = x.size();
    const size_t m = x[0].size();
    const double mean = std::accumulate(y.begin(), y.end(), 0.0) / double(n);
    std::vector<double> centred = y;
    for (double & value : centred) {
        value -= mean;
    }
    centre(x);

    // in the dual, with as many unknowns as there are rows: K = X X^T, and the coefficients are X^T (K + lambda)^-1 (y - mean)
    matrix k(n, std::vector<double>(n));
    for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < n; ++j) {
            k[i][j] = std::inner_product(x[i].begin(), x[i].end(), x[j].begin(), 0.0);
        }
    }
    std::vector<double> best(m, 0.0);
    double best_error = std::numeric_limits<double>::infinity();
    for (double lambda = double(m) / 256; lambda <= double(m) * 64; lambda *= 2) {
        before_each();
        matrix l = k;
        for (size_t i = 0; i < n; ++i) {
            l[i][i] += lambda;
        }
        factorise(l);
        const std::vector<double> alpha = solve_transposed(l, solve(l, centred));
        double error = 0;
        for (size_t i = 0; i < n; ++i) {
            std::vector<double> unit(n, 0.0);
            unit[i] = 1;
            const auto   column   = solve(l, std::move(unit), i); // of L^-1; the inverse is L^-T L^-1, so this is all that its diagonal needs
            const double inverse  = std::inner_product(column.begin() + i, column.end(), column.begin() + i, 0.0);
            const double left_out = alpha[i] / inverse; // row i's residual in a fit without it
            error += left_out * left_out;
        }
        if (error < best_error) {
            best_error = error;
            std::fill(best.begin(), best.end(), 0.0);
            for (size_t i = 0; i < n; ++i) {
                for (size_t c = 0; c < m; ++c) {
                    best[c] += alpha[i] * x[i][c];
                }
            }
        }
    }
    return best;
}

} // namespace duo
