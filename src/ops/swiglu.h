// The gated unit of the feed-forward layers (Shazeer, arXiv 2002.05202), with the routing weight of
// a row folded in.
//
//   y[t,f] = weight[t] * silu(gate[t,f]) * up[t,f]       silu(z) = z / (1 + exp(-z))
//
//   dup = weight * dy * silu(gate)       dgate = weight * dy * up * silu'(gate)
//   dweight[t] = sum_f dy[t,f] * silu(gate[t,f]) * up[t,f]
//
// gate is columns [0, F) and up columns [F, 2F) of gate_up. Without row_weight, weight is 1. The
// routed rows are those below *rows (an i32 on the device); without it, all. Other rows are neither
// read nor written. Activations f32 or bf16; arithmetic f32; dgate_up may alias gate_up.
#pragma once

#include "ops/op.h"

namespace nereus::ops {

struct SwigluForward {
  TensorView y;                     // [T, F]
  ConstTensorView gate_up;          // [T, 2F]
  ConstTensorView row_weight = {};  // f32 [T], optional
  ConstTensorView rows = {};        // i32 [1], optional
};

struct SwigluBackward {
  TensorView dgate_up;              // [T, 2F]
  TensorView drow_weight = {};      // f32 [T], given together with row_weight
  ConstTensorView dy;               // [T, F]
  ConstTensorView gate_up;          // [T, 2F]
  ConstTensorView row_weight = {};  // f32 [T], optional
  ConstTensorView rows = {};        // i32 [1], optional
};

NEREUS_OP(swiglu_forward, SwigluForward)
NEREUS_OP(swiglu_backward, SwigluBackward)

}  // namespace nereus::ops
