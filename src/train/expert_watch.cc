#include "train/expert_watch.h"

#include <algorithm>

namespace nereus {
namespace {

constexpr int64_t kRouterNumbers = 3;
static_assert(sizeof(RouterFigures) == kRouterNumbers * sizeof(double));

}  // namespace

ExpertWatch::ExpertWatch(Engine& engine, Stream& stream, int64_t tokens)
    : engine_(engine), stream_(stream), watch_(static_cast<size_t>(engine.args().n_layers)) {
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
  const int64_t numbers = layers * kRouterNumbers;
  buffer_ =
      Buffer(stream.device(), (values + numbers) * 8 + values * 4, "load and bias of all experts");
  std::byte* const base = buffer_.data();
  counts_ = TensorView(base, DType::i64, {values});
  routers_ = TensorView(base + values * 8, DType::f64, {numbers});
  bias_ = TensorView(base + (values + numbers) * 8, DType::f32, {values});
}

void ExpertWatch::watch_routers(bool watch) {
  watches_ = watch && !table_.layers.empty();
  if (watches_) watch_.begin();
  engine_.executor().set_observer(watches_ ? &watch_ : nullptr);
}

const ExpertTable* ExpertWatch::read() {
  if (table_.layers.empty()) return nullptr;
  const bool biased = !table_.bias.empty();
  std::fill(table_.counts.begin(), table_.counts.end(), 0);
  std::fill(table_.bias.begin(), table_.bias.end(), 0.0f);
  table_.routers.assign(watches_ ? table_.layers.size() : 0, {});
  for (const Engine::LayerLoad& l : engine_.expert_load()) {
    const auto at = std::lower_bound(table_.layers.begin(), table_.layers.end(), l.layer);
    const int64_t place = at - table_.layers.begin(), first = place * table_.experts;
    if (watches_) table_.routers[static_cast<size_t>(place)] = watch_.of(l.layer);
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
    if (watches_) share(routers_, table_.routers.data());
  }
  stream_.synchronize();
  return &table_;
}

}  // namespace nereus
