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

// A parameter, or a box of it (this rank's part under tensor or expert parallelism), is indices
// [begin, begin + extent()[dim]) of dim `dim` of its stored tensor.
struct ParameterPart {
  Parameter parameter;  // whole
  int dim = 0;
  int64_t begin = 0;
  Shape origin = {}, box = {};  // where the box begins in the parameter, and its size; all of it
                                // when they have no dims

  const Shape& extent() const { return box.rank() > 0 ? box : parameter.shape; }
  int64_t first(int d) const { return origin.rank() > 0 ? origin[d] : 0; }
};

// What kernels read of a stored tensor when the model computes in bf16: its f32 master, or the bf16
// copy that is kept of it. A model that computes in f32 reads all masters.
enum class ReadFormat : uint8_t { f32_master, bf16_copy };

struct StoredTensor {
  std::string name;
  Shape shape;     // on this rank, before it is divided into shards
  int bucket = 0;  // what is gathered and reduced together: a block, say
  ReadFormat read_format = ReadFormat::bf16_copy;  // norms: f32_master
  bool experts = false;           // of routed experts: divided among the ranks of expert_shard
  bool replicated_on_tp = false;  // over tp: a rank's gradient is a part of the group's sum
  std::vector<ParameterPart> parts = {};

  // What is divided into shards: rows of the last dim's width; of experts [E, R, D], E * R of them.
  int64_t rows() const { return shape.rank() > 2 ? shape[0] * shape[1] : shape[0]; }
};

// Names a stored tensor of a store; -1: there is none (a model without q_lora has no q_norm).
using TensorHandle = int;

}  // namespace nereus
