// A rank's part of a run as checkpoints see it: which tensors the model has, which of them the rank
// keeps, and where.
#pragma once

#include <vector>

#include "checkpoint/flat_state.h"
#include "checkpoint/rank_slices.h"
#include "engine/engine.h"

namespace nereus {

// The experts' biases of the whole model, which are no parameters.
std::vector<Parameter> expert_biases(const ModelArgs&);

RankSlices rank_slices(const Engine&);
// Of this rank's layers; one rank of those that have the same layers writes them.
std::vector<NamedView> rank_biases(const Engine&);
bool writes_biases(const RankWorld&);

struct CheckpointState {
  // The engine must outlive it. See flat_states() for `load`.
  CheckpointState(Engine&, Stream&, bool load);

  RankSlices slices;
  std::vector<FlatState> states;
  std::vector<NamedView> biases;
  bool writes_biases = false;
};

}  // namespace nereus
