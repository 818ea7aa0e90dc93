#include "train/checkpoint_state.h"

namespace nereus {

std::vector<Parameter> expert_biases(const ModelArgs& args) {
  std::vector<Parameter> out;
  for (int64_t layer = 0; layer < args.n_layers; ++layer)
    if (args.is_moe_layer(layer) && has_expert_bias(args))
      out.push_back(
          {.name = expert_bias_name(layer), .shape = {args.moe.num_experts}, .initial = {}});
  return out;
}

RankSlices rank_slices(const Engine& engine) {
  return rank_slices(engine.store().layout(), engine.world().mesh(), engine.world().rank());
}

std::vector<NamedView> rank_biases(const Engine& engine) {
  std::vector<NamedView> out;
  for (const Engine::LayerLoad& l : engine.expert_load())
    if (l.bias) out.push_back({.name = expert_bias_name(l.layer), .view = l.bias});
  return out;
}

bool writes_biases(const RankWorld& world) {
  return world.position(MeshGroup::dp_replicate) == 0 &&
         world.position(MeshGroup::dp_shard_cp) == 0 && world.position(MeshGroup::tp) == 0;
}

CheckpointState::CheckpointState(Engine& engine, Stream& stream, bool load)
    : slices(rank_slices(engine)),
      states(flat_states(stream, engine.store(), load)),
      biases(rank_biases(engine)),
      writes_biases(nereus::writes_biases(engine.world())) {}

}  // namespace nereus
