// The list of a model's parameters: names, shapes, kinds and initial distributions.
//
// Names are TorchTitan's, logical and unfused: `layers.3.moe.experts.w1` is [E, F, D] wherever and
// however its elements are stored. Shapes are (out, in), experts first.
#pragma once

#include <string>
#include <vector>

#include "config/model_args.h"
#include "tensor/tensor.h"

namespace nereus {

// What a parameter is, for counting (docs/numerics.md, FLOPs) and for sharding.
enum class ParameterKind : uint8_t {
  embedding,
  dense,  // attention, norms, dense feed-forward, head
  router,
  shared_expert,
  routed_expert,
};

struct Initial {
  // normal (truncated to [low, high] unless they are equal) or, with std 0, the constant `mean`.
  double mean = 0, std = 0, low = 0, high = 0;
};

struct Parameter {
  std::string name;
  Shape shape;
  ParameterKind kind = ParameterKind::dense;
  Initial initial;
  int64_t layer = -1;  // -1: outside the blocks
};

// In the order of the model: embedding, blocks, final norm, head.
std::vector<Parameter> parameters(const ModelArgs&);

// Buffers saved with the weights though not trained: f32 [E] `layers.N.moe.expert_bias` of each
// layer of experts, when load balancing is on.
std::vector<Parameter> saved_buffers(const ModelArgs&);

}  // namespace nereus
