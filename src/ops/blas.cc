#include "ops/blas.h"

#include <cblas.h>

#include <algorithm>

#include "base/check.h"
#include "ops/simd.h"

namespace nereus::ops::cpu {
namespace {

constexpr int64_t kInner = 1024;  // of k at a time, for bf16: panels of a, b and c fit the scratch
static_assert((2 * kPanel * kInner + kPanel * kPanel) * 4 <= int64_t{ThreadPool::kScratchBytes});

// OpenBLAS must not start threads of its own: the pool's are the only ones.
bool single_threaded_blas() {
  openblas_set_num_threads(1);
  return true;
}

// A block of op(x) as f32, in x's own orientation.
template <class E>
void widen(float* out, const E* x, int64_t rows, int64_t columns, int64_t ld) {
  for (int64_t r = 0; r < rows; ++r)
    simd::for_each(columns,
                   [&](auto get, auto put) { put(out + r * columns, get(x + r * ld, 0)); });
}

// Returns the f32 data of the [rows, columns] block of op(x) and its stride.
std::pair<const float*, int64_t> as_f32(const Operand& x, int64_t rows, int64_t columns,
                                        float* panel) {
  if (x.dtype == DType::f32) return {reinterpret_cast<const float*>(x.data), x.ld};
  const int64_t r = x.transposed ? columns : rows, c = x.transposed ? rows : columns;
  widen(panel, reinterpret_cast<const bf16*>(x.data), r, c, x.ld);
  return {panel, c};
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

void set_blas_threads(int threads) {
  sgemm(nullptr, 0, 0, 0, 0, nullptr, 0, false, nullptr, 0, false, false);  // sets 1, once
  openblas_set_num_threads(threads);
}

void gemm(std::byte* c, DType c_dtype, int64_t ldc, int64_t m, int64_t n, int64_t k,
          const Operand& a, const Operand& b, bool accumulate, Scratch scratch) {
  if (a.dtype == DType::f32 && b.dtype == DType::f32 && c_dtype == DType::f32) {
    return sgemm(reinterpret_cast<float*>(c), ldc, m, n, k, reinterpret_cast<const float*>(a.data),
                 a.ld, a.transposed, reinterpret_cast<const float*>(b.data), b.ld, b.transposed,
                 accumulate);
  }
  NEREUS_CHECK(kContract, m <= kPanel && n <= kPanel, "gemm: a block of {} x {}", m, n);
  float* sum = reinterpret_cast<float*>(scratch.data());
  float *panel_a = sum + kPanel * kPanel, *panel_b = panel_a + kPanel * kInner;
  if (k == 0) std::fill_n(sum, m * n, 0.0f);
  for (int64_t begin = 0; begin < k; begin += kInner) {
    const int64_t inner = std::min(kInner, k - begin);
    const Operand a_part = a.at(0, begin), b_part = b.at(begin, 0);
    const auto [a_data, lda] = as_f32(a_part, m, inner, panel_a);
    const auto [b_data, ldb] = as_f32(b_part, inner, n, panel_b);
    sgemm(sum, n, m, n, inner, a_data, lda, a.transposed, b_data, ldb, b.transposed, begin > 0);
  }
  visit_float(c_dtype, [&]<class E>() {
    for (int64_t i = 0; i < m; ++i) {
      E* out = reinterpret_cast<E*>(c) + i * ldc;
      const float* row = sum + i * n;
      simd::for_each(n, [&](auto get, auto put) {
        put(out, accumulate ? get(row, 0) + get(out, 0) : get(row, 0));
      });
    }
  });
}

// Large blocks keep BLAS's packing cheap; at least kTasks of them keep the threads busy, unless
// they would become too small to be worth a task.
Blocks::Blocks(int64_t M, int64_t N, int64_t K, bool f32) {
  constexpr int64_t kLargest = 512, kSmallest = 64, kTasks = 8;
  constexpr double kWorth = 4e6;  // multiply-adds
  rows = std::min(M, f32 ? kLargest : kPanel);
  columns = std::min(N, f32 ? kLargest : kPanel);
  const auto blocks = [](int64_t n, int64_t block) {
    return block == 0 ? 0 : (n + block - 1) / block;
  };
  const auto halve = [](int64_t n) { return (n / 2 + 15) / 16 * 16; };
  for (;;) {
    row_blocks = blocks(M, rows);
    column_blocks = blocks(N, columns);
    const double work =
        static_cast<double>(rows) * static_cast<double>(columns) * static_cast<double>(K);
    int64_t& larger = rows >= columns ? rows : columns;
    if (count() >= kTasks || work < 2 * kWorth || halve(larger) < kSmallest) return;
    larger = halve(larger);
  }
}

}  // namespace nereus::ops::cpu
