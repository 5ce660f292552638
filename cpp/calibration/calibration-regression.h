// Linear regression for few rows and many columns.
#pragma once

#include <functional>
#include <vector>

namespace duo {

// Coefficients of y on the columns of x [rows][columns], at least one of each, with an intercept and a ridge penalty chosen by leave-one-out error.
// before_each: called before each penalty that is tried, which takes time by the cube of the rows; may throw.
std::vector<double> ridge_regression(std::vector<std::vector<double>> x, const std::vector<double> & y, const std::function<void()> & before_each);

} // namespace duo
