// Token embedding.
//
//   embedding_forward:   out[t] = table[ids[t]]
//   embedding_backward:  dtable[v] = sum over t with ids[t] = v of dy[t]
//                        (+ dtable[v] when accumulate)
//
// The table may be a part of a longer one, from id `first` on: v stands for id first + v, and
// tokens of other ids give rows of zeros and have no part in the sum. With a whole table every id
// must be in it; that is checked where data enters, not here.
//
// The sum is f32, in order of t.
#pragma once

#include "ops/op.h"

namespace nereus::ops {

struct EmbeddingForward {
  TensorView out;         // [T, D]
  ConstTensorView table;  // [V, D], of out's type
  ConstTensorView ids;    // i32 [T]
  int64_t first = 0;
};

struct EmbeddingBackward {
  TensorView dtable;    // f32 [V, D]
  ConstTensorView dy;   // [T, D]
  ConstTensorView ids;  // i32 [T]
  int64_t first = 0;
  bool accumulate = false;
};

NEREUS_OP(embedding_forward, EmbeddingForward)
NEREUS_PLANNED_OP(embedding_backward, EmbeddingBackward)

}  // namespace nereus::ops
