// The slow path of the GPU's dense product, for what cuBLASLt does not take: operands of two types,
// odd alignments of bf16, K = 0. Sums over K in order, one fused multiply-add after another.
#pragma once

#include "ops/matmul.h"

namespace nereus::ops::cuda {

void matmul_general(Stream&, const Matmul&);

}  // namespace nereus::ops::cuda
