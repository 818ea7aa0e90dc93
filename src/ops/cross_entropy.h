// Cross entropy of a chunk of rows of logits, and its gradient in place of them.
//
//   nll[t] = log sum_v exp(logits[t,v]) - logits[t, labels[t]]
//   logits[t,v] := scale * (softmax_v(logits[t,:]) - [v = labels[t]])       (unless loss_only)
//
// A negative label is ignored: nll 0, gradient 0. logits f32 or bf16; arithmetic f32.
#pragma once

#include "ops/op.h"

namespace nereus::ops {

struct CrossEntropy {
  TensorView logits;       // [T, V], in place
  TensorView nll;          // f32 [T]
  ConstTensorView labels;  // i32 [T], below V
  float scale = 1;
  bool loss_only = false;  // leaves the logits as they are
};

NEREUS_OP(cross_entropy, CrossEntropy)

}  // namespace nereus::ops
