// The GPU's general dense GEMM, a slow path for what cuBLASLt does not take: operands of two types,
// odd alignments of bf16, K = 0. Sums over K in order, one fused multiply-add after another.
#pragma once

#include "ops/matmul.h"

namespace nereus::ops::cuda {

void matmul_general(Stream&, const Matmul&);

// For tuning: how many algorithms cuBLASLt proposes for this GEMM, and which one this stream uses
// from here on.
size_t matmul_algorithms(Stream&, const Matmul&);
void choose_algorithm(Stream&, const Matmul&, size_t place);

}  // namespace nereus::ops::cuda
