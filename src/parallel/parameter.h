// What a parameter is, and how parameters are stored.
//
// A Parameter is logical: it has TorchTitan's name, its own shape (out, in; experts first) and its
// own initial distribution, whatever the layout. A StoredTensor is what kernels see: one or several
// parameters in one tensor (w1 and w3 of an expert are rows of one gate_up), so that one GEMM
// reads them together.
#pragma once

#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace nereus {

// For counting (docs/numerics.md, FLOPs) and for sharding.
enum class ParameterKind : uint8_t {
  embedding,
  dense,  // attention, norms, dense feed-forward, head
  router,
  shared_expert,
  routed_expert,
};

struct Initial {
  // Normal, truncated to [low, high] unless they are equal; with std 0 the constant `mean`.
  double mean = 0, std = 0, low = 0, high = 0;
};

struct Parameter {
  std::string name;
  Shape shape;
  ParameterKind kind = ParameterKind::dense;
  Initial initial;
};

// The parameter is indices [begin, begin + shape[dim]) of dim `dim` of its stored tensor.
struct ParameterPart {
  Parameter parameter;
  int dim = 0;
  int64_t begin = 0;
};

struct StoredTensor {
  std::string name;
  Shape shape;
  int bucket = 0;               // what is gathered and reduced together: a block, say
  bool full_precision = false;  // kernels read the f32 master, not a bf16 copy: norms
  std::vector<ParameterPart> parts;
};

// Names a stored tensor of a store; -1: there is none (a model without q_lora has no q_norm).
using TensorHandle = int;

}  // namespace nereus
