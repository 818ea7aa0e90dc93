// How a step's tokens were spread over the experts of each layer, and the figures of it. With n[e]
// the tokens routed to expert e of a layer's E, N their sum and mean = N / E:
//
//   max_over_mean   max_e n[e] / mean
//   percentiles     of n[e] / mean, by the nearest rank: the value with index ceil(q E) - 1
//   entropy         -sum_e p ln p / ln E with p = n[e] / N: 1 even, 0 all to one expert
//   dead            experts with n[e] = 0
//
// A layer without tokens has none of them: its figures are 0.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace nereus {

// Of a layer's router, over the tokens of a microbatch: train/router_watch.h has the formulas.
struct RouterFigures {
  double z_loss = 0, lse = 0, logit_max = 0;
};

struct ExpertTable {
  int64_t experts = 0;           // of a layer
  std::vector<int64_t> layers;   // of experts, in order
  std::vector<int64_t> counts;   // [layers, experts]: of all ranks, of one step
  std::vector<float> bias = {};  // [layers, experts], after the step; empty: the model has none
  std::vector<RouterFigures> routers = {};  // by layer; empty: not watched in this step
  int64_t tokens_a_layer = 0;               // choices: tokens of the step times top_k

  std::span<const int64_t> counts_of(size_t i) const {
    return std::span(counts).subspan(i * static_cast<size_t>(experts),
                                     static_cast<size_t>(experts));
  }
  std::span<const float> bias_of(size_t i) const {
    return std::span(bias).subspan(i * static_cast<size_t>(experts), static_cast<size_t>(experts));
  }
};

struct LayerFigures {
  double max_over_mean = 0, p5 = 0, p50 = 0, p95 = 0, entropy = 0;
  int64_t dead = 0;
};
// n[e] / mean of a layer.
std::vector<double> relative_loads(std::span<const int64_t> counts);

LayerFigures layer_figures(std::span<const int64_t> counts);

// Of all layers.
struct ExpertFigures {
  std::vector<LayerFigures> layers;
  double p5 = 0, p50 = 0, p95 = 0;  // of n / mean over all experts of all layers
  double lowest_entropy = 0;        // of a layer
  int64_t dead = 0, dropped = 0;  // choices that no expert got: none, unless this program is wrong
  std::optional<float> bias_min, bias_max;
};
ExpertFigures expert_figures(const ExpertTable&);

}  // namespace nereus
