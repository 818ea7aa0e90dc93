// RMSNorm over the last dim (Zhang and Sennrich, 2019), forward and backward, with the residual
// additions before and after it.
//
//   s[t,d] = x[t,d] + addend[t,d]            (s = x without addend)
//   rstd[t] = 1 / sqrt(mean_d s[t,d]^2 + eps)        y[t,d] = s[t,d] * rstd[t] * weight[d]
//
//   with g = dy * weight and n = s * rstd:
//   dx = rstd * (g - n * mean_d(g * n))  (+ residual)        dweight = sum_t dy * n  (+ dweight)
//
// Activations (s, x, addend, y, dy, dx, residual) are f32 or bf16, all of one type; weight, rstd
// and dweight are f32; sums are f32. Rows may be strided. s is rounded to its type before the norm
// reads it. With round_normalized (Hugging Face's order) s * rstd is rounded to the activation type
// before it is multiplied by the weight. y may alias x, and dx may alias dy or residual. The order
// of the sum over t depends on T, D and the device only.
//
// A pair is two norms with the same number of rows, such as those of the query and key latents,
// which are adjacent columns of one tensor. One launch does both where a GPU's kernels can.
#pragma once

#include "ops/op.h"

namespace nereus::ops {

struct RmsNormForward {
  TensorView y;                 // [T, D]
  TensorView rstd;              // f32 [T]
  TensorView sum = {};          // [T, D], given together with addend; may alias x
  ConstTensorView x;            // [T, D]
  ConstTensorView addend = {};  // [T, D], optional
  ConstTensorView weight;       // f32 [D]
  float eps = 0;
  bool round_normalized = false;
};

struct RmsNormBackward {
  TensorView dx;                  // [T, D]
  TensorView dweight;             // f32 [D]
  ConstTensorView dy, x;          // [T, D], x being the normalised sum s
  ConstTensorView residual = {};  // [T, D], optional
  ConstTensorView weight;         // f32 [D]
  ConstTensorView rstd;           // f32 [T]
  bool accumulate = false;        // into dweight
};

struct RmsNormPairForward {
  RmsNormForward first, second;  // [T, D] and [T, D'] of one type
};

struct RmsNormPairBackward {
  RmsNormBackward first, second;
};

NEREUS_OP(rmsnorm_forward, RmsNormForward)
NEREUS_PLANNED_OP(rmsnorm_backward, RmsNormBackward)
NEREUS_OP(rmsnorm_pair_forward, RmsNormPairForward)
NEREUS_PLANNED_OP(rmsnorm_pair_backward, RmsNormPairBackward)

}  // namespace nereus::ops
