// One thread's matrix product on a block, for the CPU ops: OpenBLAS on f32, and on bf16 through f32
// panels in the task's scratch. The sum over k is in an order that depends on m, n and k only.
#pragma once

#include "device/device.h"

namespace nereus::ops::cpu {

// op(x) of [rows, columns] stored with row stride `ld`; transposed: stored [columns, rows].
struct Operand {
  const std::byte* data;
  DType dtype;  // f32 or bf16
  int64_t ld;
  bool transposed;

  // From element (row, column) of op(x) on.
  Operand at(int64_t row, int64_t column) const {
    const int64_t offset = transposed ? column * ld + row : row * ld + column;
    return {data + offset * size_of(dtype), dtype, ld, transposed};
  }
};

// c[m,n] = a[m,k] b[k,n] (+ c). c is f32 or bf16 with row stride ldc; with bf16 anywhere m and n
// must be at most kPanel.
inline constexpr int64_t kPanel = 256;
void gemm(std::byte* c, DType c_dtype, int64_t ldc, int64_t m, int64_t n, int64_t k,
          const Operand& a, const Operand& b, bool accumulate, Scratch scratch);

// The same for f32 operands.
void sgemm(float* c, int64_t ldc, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda,
           bool trans_a, const float* b, int64_t ldb, bool trans_b, bool accumulate);

// OpenBLAS's own threads, from now on: 1 unless told otherwise. For the benchmark, which compares.
void set_blas_threads(int threads);

// How an [M, N] result with inner length K is cut into tasks: by its shape only.
struct Blocks {
  Blocks(int64_t M, int64_t N, int64_t K, bool f32);
  int64_t rows, columns;  // of a block
  int64_t row_blocks, column_blocks;
  int64_t count() const { return row_blocks * column_blocks; }
};

}  // namespace nereus::ops::cpu
