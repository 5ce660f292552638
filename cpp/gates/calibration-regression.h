// Linear regression for few rows and many columns.
#pragma once

#include <vector>

namespace duo {

// Coefficients of y on the columns of x [rows][columns], at least one of each, with an intercept and a ridge penalty chosen by leave-one-out error.
std::vector<double> ridge_regression(std::vector<std::vector<double>> x, const std::vector<double> & y);

} // namespace duo
