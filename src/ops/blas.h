// One thread's product through OpenBLAS, for attention.
#pragma once

#include "device/device.h"

namespace nereus::ops::cpu {

// c[m,n] = op(a)[m,k] op(b)[k,n] (+ c).
void sgemm(float* c, int64_t ldc, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda,
           bool trans_a, const float* b, int64_t ldb, bool trans_b, bool accumulate);

}  // namespace nereus::ops::cpu
