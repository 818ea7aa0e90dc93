#include "train/expert_watch.h"

#include <algorithm>

namespace nereus {

ExpertWatch::ExpertWatch(const Engine& engine, Stream& stream, int64_t tokens)
    : engine_(engine), stream_(stream) {
  const ModelArgs& args = engine.args();
  for (int64_t layer = 0; layer < args.n_layers; ++layer)
    if (args.is_moe_layer(layer)) table_.layers.push_back(layer);
  if (table_.layers.empty()) return;
  const auto layers = static_cast<int64_t>(table_.layers.size());
  const int64_t experts = args.moe.num_experts, values = layers * experts;
  table_.experts = experts;
  table_.tokens_a_layer = tokens * args.moe.top_k;
  table_.counts.resize(static_cast<size_t>(values));
  if (has_expert_bias(args)) table_.bias.resize(static_cast<size_t>(values));
  if (engine.world().size(MeshGroup::pp) == 1) return;
  buffer_ = Buffer(stream.device(), values * (8 + 4), "load and bias of all experts");
  counts_ = TensorView(buffer_.data(), DType::i64, {values});
  bias_ = TensorView(buffer_.data() + values * 8, DType::f32, {values});
}

const ExpertTable* ExpertWatch::read() {
  if (table_.layers.empty()) return nullptr;
  const bool biased = !table_.bias.empty();
  std::fill(table_.counts.begin(), table_.counts.end(), 0);
  std::fill(table_.bias.begin(), table_.bias.end(), 0.0f);
  for (const Engine::LayerLoad& l : engine_.expert_load()) {
    const auto at = std::lower_bound(table_.layers.begin(), table_.layers.end(), l.layer);
    const int64_t first = (at - table_.layers.begin()) * table_.experts;
    copy_to_host(stream_, table_.counts.data() + first, l.load);
    if (biased) copy_to_host(stream_, table_.bias.data() + first, l.bias);
  }
  if (counts_) {
    stream_.synchronize();
    Communicator& group = engine_.world().group(MeshGroup::pp);
    const auto share = [&](TensorView all, void* host) {
      copy_to_device(stream_, all, host);
      group.all_reduce(stream_, all);
      copy_to_host(stream_, host, all);
    };
    share(counts_, table_.counts.data());
    if (biased) share(bias_, table_.bias.data());
  }
  stream_.synchronize();
  return &table_;
}

}  // namespace nereus
