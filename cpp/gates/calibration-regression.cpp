#include "calibration-regression.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>

namespace duo {

using matrix = std::vector<std::vector<double>>;

// The inverse of a symmetric positive definite matrix, by Cholesky's factors.
static matrix inverse(matrix a) {
    const size_t n = a.size();
    for (size_t j = 0; j < n; ++j) { // a's lower triangle becomes L
        for (size_t i = j; i < n; ++i) {
            double sum = a[i][j];
            for (size_t k = 0; k < j; ++k) {
                sum -= a[i][k] * a[j][k];
            }
            a[i][j] = i == j ? std::sqrt(sum) : sum / a[j][j];
        }
    }
    matrix inv(n, std::vector<double>(n, 0.0));
    for (size_t c = 0; c < n; ++c) { // L L^T x = e_c
        std::vector<double> x(n, 0.0);
        for (size_t i = 0; i < n; ++i) {
            double sum = i == c;
            for (size_t k = 0; k < i; ++k) {
                sum -= a[i][k] * x[k];
            }
            x[i] = sum / a[i][i];
        }
        for (size_t i = n; i-- > 0;) {
            double sum = x[i];
            for (size_t k = i + 1; k < n; ++k) {
                sum -= a[k][i] * x[k];
            }
            x[i] = sum / a[i][i];
        }
        for (size_t i = 0; i < n; ++i) {
            inv[i][c] = x[i];
        }
    }
    return inv;
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

std::vector<double> ridge_regression(matrix x, const std::vector<double> & y) {
    const size_t n = x.size();
    const size_t m = x[0].size();
    const double mean = std::accumulate(y.begin(), y.end(), 0.0) / double(n);
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
        matrix a = k;
        for (size_t i = 0; i < n; ++i) {
            a[i][i] += lambda;
        }
        const matrix inv = inverse(std::move(a));
        std::vector<double> alpha(n, 0.0);
        double error = 0;
        for (size_t i = 0; i < n; ++i) {
            for (size_t j = 0; j < n; ++j) {
                alpha[i] += inv[i][j] * (y[j] - mean);
            }
            const double left_out = alpha[i] / inv[i][i]; // row i's residual in a fit without it
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
