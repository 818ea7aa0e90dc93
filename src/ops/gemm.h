// GEMMs by one thread, for the CPU ops. For .cc files only.
//
// Element (i, j) of a result is a chain of fused multiply-adds over k in order, in parts of equal
// length of at most kInner that are added to the result one after another. It depends on row i of
// the left matrix, column j of the right one and k only: not on the processor, the number of
// threads, or how a result is cut into blocks.
#pragma once

#include "device/device.h"

namespace nereus::ops::cpu {

// Where the kernel reads a matrix of f32. The left one goes through the kernel in strips of
// kTileRows rows, the right one in strips of kTileColumns columns, which must be readable whole.
inline constexpr int64_t kTileRows = 6, kTileColumns = 16;
inline constexpr int64_t kInner = 256;

struct Left {  // (i, k) is data[i / kTileRows * strip + i % kTileRows * row + k * inner]
  const float* data;
  int64_t row, inner, strip;
};
struct Right {  // (k, j) is data[j / kTileColumns * strip + k * inner + j % kTileColumns]
  const float* data;
  int64_t inner, strip;
};

// Rows of a matrix with row stride ld as they are, and its transpose.
inline Left rows_of(const float* x, int64_t ld) { return {x, ld, 1, kTileRows * ld}; }
inline Left columns_of(const float* x, int64_t ld) { return {x, 1, ld, kTileRows}; }

// c[m,n] = left[m,k] right[k,n] (+ c), in one part whatever k. With `whole`, c has space for n
// rounded up to whole strips, and all of them are computed.
void multiply(float* c, int64_t ldc, int64_t m, int64_t n, int64_t k, const Left& left,
              const Right& right, bool accumulate, bool whole = false);

// op(x) of [rows, columns] stored with row stride `ld`; transposed: stored [columns, rows].
struct Operand {
  const std::byte* data;
  DType dtype;  // f32 or bf16
  int64_t ld;
  bool transposed = false;

  // From element (row, column) of op(x) on.
  Operand at(int64_t row, int64_t column) const {
    const int64_t offset = transposed ? column * ld + row : row * ld + column;
    return {data + offset * size_of(dtype), dtype, ld, transposed};
  }
};

constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// Copies op(x) into strips as f32, which follow one another: the kernel's favourite layout. Returns
// how it lies there. A packer may write up to kPackSlack floats beyond.
inline constexpr int64_t kPackSlack = 8;
constexpr int64_t packed_left(int64_t m, int64_t k) { return round_up(m, kTileRows) * k; }
constexpr int64_t packed_right(int64_t k, int64_t n) { return round_up(n, kTileColumns) * k; }
Left pack_left(float* out, const Operand& x, int64_t m, int64_t k);
Right pack_right(float* out, const Operand& x, int64_t k, int64_t n);  // zeros beyond n

// One block of a GEMM: c[m,n] = a[m,k] b[k,n] (+ c), c f32 or bf16 with row stride ldc, m and n
// at most kBlockRows and kBlockColumns.
inline constexpr int64_t kBlockRows = 516, kBlockColumns = 512;
void gemm(std::byte* c, DType c_dtype, int64_t ldc, int64_t m, int64_t n, int64_t k,
          const Operand& a, const Operand& b, bool accumulate, Scratch scratch);

// How an [M, N] result with inner length K is cut into such blocks for so many threads. The
// result's bits do not depend on it.
struct Blocks {
  Blocks() = default;
  Blocks(int64_t M, int64_t N, int64_t K, int threads);
  int64_t rows = 0, columns = 0;  // of a block
  int64_t row_blocks = 0, column_blocks = 0;
  int64_t count() const { return row_blocks * column_blocks; }
};

}  // namespace nereus::ops::cpu
