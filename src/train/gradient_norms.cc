#include "train/gradient_norms.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include "ops/elementwise.h"
#include "ops/optimizer.h"

namespace nereus {
namespace {

// Of "layers.12.attention.wo.weight"; `layers` for what is in none.
size_t layer_of(const std::string& name, size_t layers) {
  constexpr std::string_view kPrefix = "layers.";
  if (!name.starts_with(kPrefix)) return layers;
  return std::strtoul(name.c_str() + kPrefix.size(), nullptr, 10);
}

}  // namespace

GradientNorms::GradientNorms(Engine& engine, Stream& stream) : engine_(engine), stream_(stream) {
  const auto layers = static_cast<size_t>(engine.args().n_layers);
  for (size_t layer = 0; layer < layers; ++layer)
    norms_.push_back({fmt::format("layer_{}", layer), 0});
  norms_.push_back({"outside_layers", 0});
  host_.resize(layers + 1);
  buffer_ = Buffer(stream.device(), static_cast<int64_t>(host_.size()) * 8, "squares by layer");
  sums_ = TensorView(buffer_.data(), DType::f64, {static_cast<int64_t>(host_.size())});
  const RankWorld& world = engine.world();
  if (world.position(MeshGroup::dp_replicate) > 0) return;  // the first counts
  const StoreLayout& layout = engine.store().layout();
  const FlatRange counted = layout.counted(world.first_of_tp());
  for (size_t i = 0; i < layout.size(); ++i) {
    const FlatRange range{layout.offset(i),
                          std::min(layout.offset(i) + layout.shard_shape(i).count(), counted.end)};
    if (range.count() <= 0) continue;
    parts_.push_back({layer_of(layout.tensors()[i].name, layers), range});
  }
}

const std::vector<LayerNorm>& GradientNorms::read() {
  // Zero bits, which are 0.0.
  ops::fill(stream_, {.out = TensorView(buffer_.data(), DType::i64, sums_.shape), .value = 0});
  const TensorView gradients = engine_.store().gradients();
  for (const Part& p : parts_) {
    const auto sum = static_cast<int64_t>(p.sum);
    ops::sum_squares(stream_, {.out = sums_.rows(sum, sum + 1),
                               .x = gradients.rows(p.range.begin, p.range.end),
                               .accumulate = true});
  }
  engine_.world().world().all_reduce(stream_, sums_);
  copy_to_host(stream_, host_.data(), sums_);
  stream_.synchronize();
  for (size_t i = 0; i < norms_.size(); ++i) norms_[i].norm = std::sqrt(host_[i]);
  return norms_;
}

}  // namespace nereus
