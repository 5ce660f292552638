#include "calibration-bosch.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <numeric>
#include <random>
#include <utility>

namespace duo {

namespace {

class search {
public:
    explicit search(const bosch_params & params) : params(params), rng(params.seed) {
        for (const int32_t n : params.n_head_kv) {
            layers.emplace_back(size_t(n));
            std::iota(layers.back().begin(), layers.back().end(), order.size());
            order.resize(order.size() + size_t(n));
        }
        settled.assign(n_head(), 0);
    }

    std::vector<double> run() {
        for (const double ratio : bosch_ratios) {
            params.settle(settled);
            const size_t n_go = n_windowed_at(ratio) - n_windowed_at(settled_ratio);
            go(ratio < 1 ? improved(first_choice(quotas(n_go)), trials_at(ratio)) : windowed_heads(n_head(), 1));
            settled_ratio = ratio;
        }
        return order;
    }

    // Every ratio but the last asks for a loss of nothing more, of each layer and of its first choice; the heads of each for one of their own.
    size_t n_losses() const {
        size_t n = n_head();
        for (const double ratio : bosch_ratios) {
            n += ratio < 1 ? layers.size() + 2 + trials_at(ratio) : 0;
        }
        return n;
    }

private:
    size_t n_head() const { return order.size(); }
    size_t n_windowed_at(double ratio) const { return size_t(std::llround(ratio * double(n_head()))); }

    // In proportion to the heads that the first ratios leave to choose from.
    size_t trials_at(double ratio) const {
        double sum = 0, own = 0, before = 0;
        for (const double r : bosch_ratios) {
            const double left = r < 1 ? 1 - before : 0;
            sum += left;
            own  = r == ratio ? left : own;
            before = r;
        }
        return size_t(own / sum * double(params.n_trials));
    }

    std::vector<size_t> left_in(size_t layer) const {
        std::vector<size_t> left;
        std::copy_if(layers[layer].begin(), layers[layer].end(), std::back_inserter(left), [&](size_t i) { return !settled[i]; });
        return left;
    }

    // How many heads each layer gives, of n in all.
    std::vector<size_t> quotas(size_t n) {
        const double before = params.loss(settled);
        std::vector<double> sensitivity;
        std::vector<size_t> n_left;
        for (size_t l = 0; l < layers.size(); ++l) {
            windowed_heads all = settled;
            for (const size_t i : left_in(l)) {
                all[i] = 1;
            }
            constexpr double least = 1e-9; // layers that lose nothing give equal shares
            sensitivity.push_back(std::max(params.loss(all) - before, least));
            n_left.push_back(left_in(l).size());
        }
        std::vector<size_t> quota(layers.size(), 0);
        for (; n > 0; --n) {
            size_t best = 0;
            double least = INFINITY;
            for (size_t l = 0; l < layers.size(); ++l) {
                const double next = sensitivity[l] * double(2 * quota[l] + 1) / double(n_left[l] * n_left[l]); // of x * x, times sensitivity
                if (quota[l] < n_left[l] && next < least) {
                    best  = l;
                    least = next;
                }
            }
            quota[best]++;
        }
        return quota;
    }

    // Any heads; layers that give about the same share, to a quarter, are a group.
    windowed_heads first_choice(const std::vector<size_t> & quota) {
        windowed_heads windowed = settled;
        std::map<long, std::vector<size_t>> by_share;
        for (size_t l = 0; l < layers.size(); ++l) {
            std::vector<size_t> left = left_in(l);
            shuffle(left);
            for (size_t k = 0; k < quota[l]; ++k) {
                windowed[left[k]] = 1;
            }
            if (quota[l] > 0 && quota[l] < left.size()) {
                auto & group = by_share[std::lround(4 * double(quota[l]) / double(left.size()))];
                group.insert(group.end(), left.begin(), left.end());
            }
        }
        groups.clear();
        for (auto & [share, group] : by_share) {
            groups.push_back(std::move(group));
        }
        return windowed;
    }

    windowed_heads improved(windowed_heads best, size_t n_trials) {
        double least = params.loss(best);
        for (size_t t = 0; t < n_trials && !groups.empty(); ++t) {
            const windowed_heads tried = neighbour(best, 1 - double(t) / double(n_trials));
            const double loss = params.loss(tried);
            if (loss < least) {
                least = loss;
                best  = tried;
            }
        }
        return best;
    }

    // With pairs of one group swapped: reach of half of those that it has, at least one. Groups have a turn for each of their heads.
    windowed_heads neighbour(windowed_heads windowed, double reach) {
        size_t n_deciding = 0;
        for (const auto & g : groups) {
            n_deciding += g.size();
        }
        size_t turn = rng() % n_deciding, g = 0;
        while (turn >= groups[g].size()) {
            turn -= groups[g++].size();
        }
        std::vector<size_t> in, out;
        for (const size_t i : groups[g]) {
            (windowed[i] ? in : out).push_back(i);
        }
        shuffle(in);
        shuffle(out);
        const size_t n_pairs = std::max<size_t>(1, size_t(reach * double(std::min(in.size(), out.size())) / 2));
        for (size_t k = 0; k < n_pairs; ++k) {
            windowed[in[k]]  = 0;
            windowed[out[k]] = 1;
        }
        return windowed;
    }

    // Their order is that of what each loses beside those that went before.
    void go(const windowed_heads & windowed) {
        std::vector<std::pair<double, size_t>> by_loss;
        for (size_t i = 0; i < n_head(); ++i) {
            if (windowed[i] && !settled[i]) {
                windowed_heads alone = settled;
                alone[i] = 1;
                by_loss.push_back({ params.loss(alone), i });
            }
        }
        std::stable_sort(by_loss.begin(), by_loss.end(), [](const auto & a, const auto & b) { return a.first < b.first; });
        for (const auto & [loss, i] : by_loss) {
            order[i] = next++;
        }
        settled = windowed;
    }

    void shuffle(std::vector<size_t> & items) {
        for (size_t i = items.size(); i > 1; --i) { // std::shuffle's order is each library's own
            std::swap(items[i - 1], items[rng() % i]);
        }
    }

    const bosch_params & params;
    std::mt19937_64      rng;

    std::vector<std::vector<size_t>> layers; // heads of each
    std::vector<std::vector<size_t>> groups; // heads that a ratio decides on together

    windowed_heads      settled;
    double              settled_ratio = 0;
    std::vector<double> order; // [n_head]
    double              next = 0;
};

} // namespace

size_t bosch_losses(const bosch_params & params) { return search(params).n_losses(); }

std::vector<double> bosch_order(const bosch_params & params) { return search(params).run(); }

} // namespace duo
