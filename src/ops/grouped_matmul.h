// One GEMM per expert over rows sorted by expert. Expert e has the rows
// [offsets[e], offsets[e+1]), any number, zero included; offsets are read on the device.
//
//   grouped_matmul:  out[r,:] = a[r,:] op(b[e])          R rows, a is [R,K], out [R,N]
//                    b[e] is [K,N], or [N,K] with trans_b
//   grouped_wgrad:   out[e] = sum over e's rows of dy[r,:]^T x[r,:]    (+ out when accumulate)
//                    out is f32 [E,N,K]; an expert without rows gets zeros (or stays)
//
// Rows at and after offsets[E] are neither read nor written. Types f32 or bf16; sums are f32.
#pragma once

#include "ops/op.h"

namespace nereus::ops {

struct GroupedMatmul {
  TensorView out;           // [R, N]
  ConstTensorView a;        // [R, K]
  ConstTensorView b;        // [E, K, N], or [E, N, K] with trans_b
  ConstTensorView offsets;  // i32 [E + 1], ascending, offsets[0] = 0, offsets[E] <= R
  bool trans_b = false;
};

struct GroupedWgrad {
  TensorView out;           // f32 [E, N, K]
  ConstTensorView dy, x;    // [R, N], [R, K]
  ConstTensorView offsets;  // i32 [E + 1]
  bool accumulate = false;
};

NEREUS_PLANNED_OP(grouped_matmul, GroupedMatmul)
NEREUS_PLANNED_OP(grouped_wgrad, GroupedWgrad)

}  // namespace nereus::ops
