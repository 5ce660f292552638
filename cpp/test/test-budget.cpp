// The choice that a budget makes, against every choice there is.
#include "check.h"

#include "../gates/budget-selection.h"
#include "../gates/head-selection.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

using namespace duo;

namespace {

constexpr uint64_t n_ctx = 4096;

// Two layers of two and three heads, three windows whose losses fall as they grow, and three cache types.
gate_pattern random_pattern(std::mt19937 & rng) {
    std::uniform_real_distribution<float> uniform(0, 1);
    gate_pattern p;
    p.n_layer      = 2;
    p.n_head_kv    = 3;
    p.n_head_layer = { 2, 3 };
    p.gates        = { 0.1f, 0.9f, 0, 0.5f, 0.2f, 0.7f };
    p.loss_windows = { 100, 500, 2000 };
    for (int i = 0; i < 6; ++i) {
        std::vector<float> losses = { uniform(rng), uniform(rng), uniform(rng) * 0.2f };
        std::sort(losses.rbegin(), losses.rend());
        p.losses.insert(p.losses.end(), losses.begin(), losses.end());
    }
    p.k_types = { { "f16", 0, 1 }, { "q8_0", 0.01f, 1 }, { "q4_0", uniform(rng), 0.95f } };
    p.v_types = { { "f16", 0, 1 }, { "q8_0", 0.005f, 1 }, { "q4_0", uniform(rng), 0.95f } };
    return p;
}

uint64_t row_bytes(const std::string & type) { return type == "f16" ? 64 : type == "q8_0" ? 34 : 18; }

double type_loss(const std::vector<cache_type_loss> & types, const std::string & name) { return find_type(types, name)->loss; }

cache_cost cost_of(const gate_pattern & p, const std::vector<std::pair<std::string, std::string>> & types) {
    cache_cost c;
    c.n_head_kv = { 2, 3 };
    for (const auto & [k, v] : types) {
        c.types.push_back({ k, v, type_loss(p.k_types, k) + type_loss(p.v_types, v) });
    }
    c.head_bytes  = [types](size_t i, int32_t, int32_t window) {
        return std::min<uint64_t>(n_ctx, window == every_key ? n_ctx : uint64_t(window) + 64) * (row_bytes(types[i].first) + row_bytes(types[i].second));
    };
    c.other_bytes = [types](size_t i) { return 10 * row_bytes(types[i].first); };
    return c;
}

// Calls see(bytes, loss) for each way to give heads windows.
void for_each_choice(const gate_pattern & p, const cache_cost & c, size_t i_types, const std::function<void(uint64_t, double)> & see) {
    const std::vector<std::pair<int32_t, int32_t>> heads = { { 0, 0 }, { 0, 1 }, { 1, 0 }, { 1, 1 }, { 1, 2 } };
    for (int code = 0; code < 4 * 4 * 4 * 4 * 4; ++code) {
        uint64_t bytes = c.other_bytes(i_types);
        double   loss  = c.types[i_types].loss;
        for (size_t h = 0, rest = size_t(code); h < heads.size(); ++h, rest /= 4) {
            const auto [il, ih] = heads[h];
            const size_t w = rest % 4;
            bytes += c.head_bytes(i_types, il, w == 3 ? every_key : p.loss_windows[w]);
            loss  += w == 3 ? 0 : p.loss(il, ih, w);
        }
        see(bytes, loss);
    }
}

void test_against_all_choices() {
    std::mt19937 rng(check::seed());
    int n_chosen = 0, n_best = 0, n_refused = 0;
    double worst = 0;
    for (int round = 0; round < 200; ++round) {
        const gate_pattern p = random_pattern(rng);
        const cache_cost   c = cost_of(p, { { "f16", "f16" }, { "q8_0", "q8_0" }, { "q8_0", "q4_0" }, { "q4_0", "q4_0" } });
        const uint64_t full = c.other_bytes(0) + 5 * c.head_bytes(0, 0, every_key);
        const uint64_t budget = uint64_t(double(full) * std::uniform_real_distribution<double>(0, round % 20 == 0 ? 0.005 : 1.1)(rng)); // some are too small
        uint64_t least = UINT64_MAX;
        double   best = INFINITY, largest_step = 0;
        for (size_t i = 0; i < c.types.size(); ++i) {
            for_each_choice(p, c, i, [&](uint64_t bytes, double loss) {
                least = std::min(least, bytes);
                best  = bytes <= budget ? std::min(best, loss) : best;
            });
        }
        for (const float l : p.losses) {
            largest_step = std::max(largest_step, double(l));
        }
        if (least > budget) {
            CHECK_THROWS(select_by_budget(p, c, budget), gate_error, "too small for this context: with the cache types to choose from the cache takes at least " + std::to_string(least));
            n_refused++;
            continue;
        }
        const budget_selection s = select_by_budget(p, c, budget);
        // what is said of it is so
        uint64_t bytes = c.other_bytes(s.i_types);
        double   loss  = c.types[s.i_types].loss;
        for (int32_t il = 0; il < 2; ++il) {
            CHECK_EQ(int32_t(s.windows[il].size()), p.n_head(il));
            for (int32_t ih = 0; ih < p.n_head(il); ++ih) {
                const int32_t window = s.windows[il][ih];
                const auto it = std::find(p.loss_windows.begin(), p.loss_windows.end(), window);
                CHECK(window == every_key || it != p.loss_windows.end());
                bytes += c.head_bytes(s.i_types, il, window);
                loss  += window == every_key ? 0 : double(p.loss(il, ih, size_t(it - p.loss_windows.begin())));
            }
        }
        CHECK_EQ(s.bytes, bytes);
        CHECK_NEAR(s.loss, loss, 1e-5);
        CHECK(s.measured);
        CHECK(bytes <= budget);
        CHECK(loss <= best + largest_step); // a head's step at most
        worst = std::max(worst, loss - best);
        n_best += loss <= best + 1e-6;
        n_chosen++;
    }
    printf("%d choices, %d of them the best there is, the worst %.3f above it; %d refused\n", n_chosen, n_best, worst, n_refused);
    CHECK(n_best * 2 > n_chosen);
    CHECK(n_refused > 0);
}

// Where all fits, nothing is lost; a byte less, and something is.
void test_all_fits() {
    std::mt19937 rng(check::seed() + 1);
    for (int round = 0; round < 20; ++round) {
        const gate_pattern p = random_pattern(rng);
        const cache_cost   c = cost_of(p, { { "f16", "f16" } });
        const uint64_t full = c.other_bytes(0) + 5 * c.head_bytes(0, 0, every_key);
        CHECK_EQ(select_by_budget(p, c, full).loss, 0.0);
        CHECK_EQ(select_by_budget(p, c, full).bytes, full);
        const auto s = select_by_budget(p, c, full - 1);
        CHECK(s.bytes < full && s.loss > 0);
    }
}

// Gates alone rank: the fewest heads that have to stream do, in the order of a sparsity, with the first of the types.
void test_by_rank() {
    std::mt19937 rng(check::seed() + 2);
    const window_of windows[] = { [](int32_t, int32_t) { return 256; }, [](int32_t il, int32_t ih) { return 100 + 300 * il + 50 * ih; } };
    int n_chosen = 0;
    for (int round = 0; round < 200; ++round) {
        gate_pattern p = random_pattern(rng);
        std::shuffle(p.gates.begin() + 3, p.gates.end(), rng);
        p.gates[1] = p.gates[3]; // equal gates have an order, too
        const cache_cost c = cost_of(p, { { "q8_0", "q4_0" }, { "q4_0", "q4_0" } });
        const window_of & window = windows[round % 2];
        const auto lowest = [&](size_t n) { return select_by_sparsity(p, c.n_head_kv, (double(n) - 0.5) / 4); };
        const auto bytes_with = [&](size_t n_streaming) {
            const head_selection h = lowest(n_streaming);
            uint64_t bytes = c.other_bytes(0);
            for (int32_t il = 0; il < 2; ++il) {
                for (int32_t ih = 0; ih < p.n_head(il); ++ih) {
                    bytes += c.head_bytes(0, il, h.streaming[il][ih] ? window(il, ih) : every_key);
                }
            }
            return bytes;
        };
        const uint64_t budget = uint64_t(double(bytes_with(0)) * std::uniform_real_distribution<double>(0.02, 1.05)(rng));
        if (budget < bytes_with(5)) {
            CHECK_THROWS(select_by_rank(p, c, window, budget), gate_error,
                    "too small for this context: with K rows of q8_0, V rows of q4_0 and every head streaming the cache takes at least " + std::to_string(bytes_with(5)));
            continue;
        }
        size_t n_streaming = 0;
        while (bytes_with(n_streaming) > budget) {
            ++n_streaming;
        }
        const budget_selection s = select_by_rank(p, c, window, budget);
        const head_selection   h = lowest(n_streaming);
        for (int32_t il = 0; il < 2; ++il) {
            for (int32_t ih = 0; ih < p.n_head(il); ++ih) {
                CHECK_EQ(s.windows[il][ih], h.streaming[il][ih] ? window(il, ih) : every_key);
            }
        }
        CHECK_EQ(s.bytes, bytes_with(n_streaming));
        CHECK_EQ(s.i_types, size_t(0));
        CHECK(!s.measured);
        n_chosen++;
    }
    printf("%d choices by rank\n", n_chosen);
    CHECK(n_chosen > 100 && n_chosen < 200);

    gate_pattern p = random_pattern(rng);
    p.n_head_layer = { 2, 2 };
    CHECK_THROWS(select_by_rank(p, cost_of(p, { { "f16", "f16" } }), windows[0], 1), gate_error, "layer 1 has 2 in the pattern and 3 in the model");
}

void test_breaking_types() {
    const std::vector<cache_type_loss> types = { { "f16", 0, 0.8f }, { "q8_0", 0.1f, 0.79f }, { "q4_0", 0.2f, 0.7f }, { "q4_0", 0.1f, 0.75f, "q8_0", { 1 } } };
    CHECK(!breaks_model(types[0], *find_type(types, "f16")));
    CHECK(!breaks_model(types[0], *find_type(types, "q8_0")));
    CHECK(breaks_model(types[0], *find_type(types, "q4_0")));
    CHECK(!breaks_model(types[0], types[3]));
    CHECK(find_type(types, "q5_1") == nullptr); // nobody looked
}

} // namespace

int main() {
    test_against_all_choices();
    test_all_fits();
    test_by_rank();
    test_breaking_types();
    return check::result();
}
