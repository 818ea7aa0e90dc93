// Gradient norm, clipping and the Adam family over flat f32 tensors.
//
//   sum_squares:       out[0] = sum_i x[i]^2     (+ out[0] when accumulate), f64, fixed order
//   clip_coefficient:  norm = sqrt(sum);  coefficient = min(1, max_norm / (norm + 1e-6));
//                      step_ok = 0 when the norm is not finite, else unchanged
//   adam:  as PyTorch's AdamW (Loshchilov and Hutter, arXiv 1711.05101) and Adam, with
//          g = coefficient * grad:
//          AdamW: p *= 1 - lr * weight_decay        Adam: g += weight_decay * p
//          m += (1 - beta1) * (g - m)       v = beta2 * v + (1 - beta2) * g^2
//          p -= lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + eps)
//          copy = p rounded to bf16, when given. Bias corrections are computed in double on the
//          host. Nothing changes when *step_ok is 0. Of a stored v the magnitude counts.
//          With `remainder` p is kept as (copy, remainder, sign of v): see ops/split_master.h.
#pragma once

#include "ops/op.h"

namespace nereus::ops {

struct SumSquares {
  TensorView out;     // f64 [1]
  ConstTensorView x;  // f32, contiguous
  bool accumulate = false;
};

struct ClipCoefficient {
  TensorView norm, coefficient;  // f32 [1]
  TensorView step_ok;            // i32 [1]
  ConstTensorView sum_squares;   // f64 [1]
  float max_norm = 1;
};

struct Adam {
  TensorView param = {};                 // f32, n elements, contiguous; or "not given", and
  TensorView remainder = {};             // i16, n elements, with copy
  TensorView m, v;                       // n elements, both f32 or both bf16 (rounded when stored)
  TensorView copy = {};                  // bf16, n elements, optional
  ConstTensorView grad;                  // f32, n elements
  ConstTensorView coefficient, step_ok;  // f32 [1], i32 [1]
  double lr = 0, beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0;
  int64_t step = 1;       // from 1
  bool decoupled = true;  // AdamW; false: Adam
};

NEREUS_OP(sum_squares, SumSquares)
NEREUS_OP(clip_coefficient, ClipCoefficient)
NEREUS_OP(adam, Adam)

}  // namespace nereus::ops
