#include "observe/expert_table.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace nereus {
namespace {

// Reorders the values.
double percentile(std::vector<double>& values, double q) {
  if (values.empty()) return 0;
  const auto n = static_cast<double>(values.size());
  const auto at = static_cast<std::ptrdiff_t>(std::max(0.0, std::ceil(q * n) - 1));
  std::nth_element(values.begin(), values.begin() + at, values.end());
  return values[static_cast<size_t>(at)];
}

// n / mean of a layer, appended.
void append_loads(std::span<const int64_t> counts, std::vector<double>& out) {
  const auto sum = static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
  const double scale = sum > 0 ? static_cast<double>(counts.size()) / sum : 0;
  for (const int64_t n : counts) out.push_back(static_cast<double>(n) * scale);
}

}  // namespace

std::vector<double> relative_loads(std::span<const int64_t> counts) {
  std::vector<double> out;
  append_loads(counts, out);
  return out;
}

LayerFigures layer_figures(std::span<const int64_t> counts) {
  LayerFigures f;
  std::vector<double> loads = relative_loads(counts);
  const auto experts = static_cast<double>(loads.size());
  for (const double load : loads) {
    f.max_over_mean = std::max(f.max_over_mean, load);
    f.dead += load == 0;
    if (load > 0) f.entropy -= load / experts * std::log(load / experts);
  }
  if (loads.size() > 1) f.entropy /= std::log(experts);
  f.p5 = percentile(loads, 0.05);
  f.p50 = percentile(loads, 0.5);
  f.p95 = percentile(loads, 0.95);
  return f;
}

ExpertFigures expert_figures(const ExpertTable& table) {
  ExpertFigures f;
  std::vector<double> loads;
  for (size_t i = 0; i < table.layers.size(); ++i) {
    const std::span<const int64_t> counts = table.counts_of(i);
    f.layers.push_back(layer_figures(counts));
    const LayerFigures& layer = f.layers.back();
    f.lowest_entropy = i == 0 ? layer.entropy : std::min(f.lowest_entropy, layer.entropy);
    f.dead += layer.dead;
    f.dropped += table.tokens_a_layer - std::accumulate(counts.begin(), counts.end(), int64_t{0});
    append_loads(counts, loads);
  }
  f.p5 = percentile(loads, 0.05);
  f.p50 = percentile(loads, 0.5);
  f.p95 = percentile(loads, 0.95);
  if (!table.bias.empty()) {
    const auto [least, most] = std::minmax_element(table.bias.begin(), table.bias.end());
    f.bias_min = *least;
    f.bias_max = *most;
  }
  return f;
}

}  // namespace nereus
