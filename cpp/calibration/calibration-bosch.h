// Which heads see a window, searched for as a black box. In the manner of BOSCH (arXiv 2604.05942), after what its abstract says: the paper's code is not public.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace duo {

// [n_head], all layers' heads in order; 1: sees a window.
using windowed_heads = std::vector<uint8_t>;

struct bosch_params {
    std::vector<int32_t> n_head_kv; // of each layer
    size_t               n_trials = 0; // choices that the search looks at, all ratios together
    uint64_t             seed     = 0;

    std::function<void  (const windowed_heads &)> settle; // what is measured from here on is measured beside these
    std::function<double(const windowed_heads &)> loss;   // of what the answers lose
};

// Shares of the heads that are windowed, those of the paper and all at last.
constexpr double bosch_ratios[] = { 0.25, 0.5, 0.75, 0.875, 1 };

// How often bosch_order asks for a loss, at most.
size_t bosch_losses(const bosch_params & params);

// The order in which heads go: 0 for the first. BOSCH solves each ratio for itself; a ranking needs solutions that contain each other. So the ratios that its paper
// gives, and all heads at last, are solved one after the other, each with the heads of those before it windowed for good. Heads of one ratio go in the order of
// what each loses alone beside the ratios before. For each ratio:
//   1. A layer's sensitivity is what is lost where all of its heads that are left go.
//   2. Insensitive layers give more heads: to lose a share x of a layer's heads is taken to lose x * x of its sensitivity, since those needed least can go first,
//      and the sum of that is made least.
//   3. Which heads these are is searched for by large neighbourhood search, jointly in all layers that give about the same share: pairs of heads swap places, at
//      first many at once, at last one, and a swap that loses less is kept.
std::vector<double> bosch_order(const bosch_params & params);

} // namespace duo
