#include "ops/blas.h"

#include <cblas.h>

#include <algorithm>

namespace nereus::ops::cpu {
namespace {

bool single_threaded_blas() {
  openblas_set_num_threads(1);
  return true;
}

}  // namespace

void sgemm(float* c, int64_t ldc, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda,
           bool trans_a, const float* b, int64_t ldb, bool trans_b, bool accumulate) {
  static const bool single_threaded = single_threaded_blas();
  (void)single_threaded;
  if (m == 0 || n == 0) return;
  if (k == 0) {
    for (int64_t i = 0; i < m && !accumulate; ++i) std::fill_n(c + i * ldc, n, 0.0f);
    return;
  }
  const auto i32 = [](int64_t x) { return static_cast<blasint>(x); };
  cblas_sgemm(CblasRowMajor, trans_a ? CblasTrans : CblasNoTrans,
              trans_b ? CblasTrans : CblasNoTrans, i32(m), i32(n), i32(k), 1.0f, a,
              i32(std::max<int64_t>(lda, 1)), b, i32(std::max<int64_t>(ldb, 1)),
              accumulate ? 1.0f : 0.0f, c, i32(ldc));
}

}  // namespace nereus::ops::cpu
