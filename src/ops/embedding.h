// Token embedding.
//
//   embedding_forward:   out[t] = table[ids[t]]
//   embedding_backward:  dtable[v] = sum over t with ids[t] = v of dy[t]    (+ dtable when
//   accumulate)
//
// The sum is f32, in order of t. ids must lie in [0, V): checked where data enters, not here.
#pragma once

#include "ops/op.h"

namespace nereus::ops {

struct EmbeddingForward {
  TensorView out;         // [T, D]
  ConstTensorView table;  // [V, D], of out's type
  ConstTensorView ids;    // i32 [T]
};

struct EmbeddingBackward {
  TensorView dtable;    // f32 [V, D]
  ConstTensorView dy;   // [T, D]
  ConstTensorView ids;  // i32 [T]
  bool accumulate = false;
};

NEREUS_OP(embedding_forward, EmbeddingForward)
NEREUS_OP(embedding_backward, EmbeddingBackward)

}  // namespace nereus::ops
