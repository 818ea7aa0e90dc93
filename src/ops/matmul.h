// Dense GEMM (matrix product).
//
//   out[M,N] = op(a)[M,K] op(b)[K,N]          (+ out when accumulate)
//
// op transposes when trans_a (a is stored [K,M]) or trans_b (b is stored [N,K]). Types: f32 or bf16
// each, rows may be strided. Products and sums are f32; the sum over K is in an order that depends
// on the shapes only. out must not overlap a or b.
#pragma once

#include "ops/op.h"

namespace nereus::ops {

struct Matmul {
  TensorView out;  // [M, N]
  ConstTensorView a, b;
  bool trans_a = false, trans_b = false;
  bool accumulate = false;
};

NEREUS_PLANNED_OP(matmul, Matmul)

}  // namespace nereus::ops
