#include "ops/grouped_matmul.h"

#include <algorithm>

#include "ops/blas.h"
#include "ops/contract.h"

namespace nereus::ops {

void check(const GroupedMatmul& a) {
  const char* op = "grouped_matmul";
  expect_float(op, "a", a.a);
  expect_float(op, "b", a.b);
  expect_float(op, "out", a.out);
  expect_rank(op, "out", a.out, 2);
  expect_rank(op, "a", a.a, 2);
  expect_rank(op, "b", a.b, 3);
  const int64_t E = a.b.dim(0), R = a.out.dim(0), N = a.out.dim(1), K = a.a.dim(1);
  const Shape want_b = a.trans_b ? Shape{E, N, K} : Shape{E, K, N};
  NEREUS_CHECK(kContract, a.a.dim(0) == R && a.b.shape == want_b,
               "grouped_matmul: out {} = a {} b {}{}: shapes do not fit", a.out, a.a, a.b,
               a.trans_b ? " transposed" : "");
  expect(op, "offsets", a.offsets, DType::i32, {E + 1});
}

void check(const GroupedWgrad& a) {
  const char* op = "grouped_wgrad";
  expect_float(op, "dy", a.dy);
  expect_float(op, "x", a.x);
  expect_rank(op, "out", a.out, 3);
  const int64_t E = a.out.dim(0), N = a.out.dim(1), K = a.out.dim(2);
  expect_rank(op, "dy", a.dy, 2);
  expect(op, "out", a.out, DType::f32, {E, N, K});
  expect(op, "dy", a.dy, a.dy.dtype, {a.dy.dim(0), N});
  expect(op, "x", a.x, a.x.dtype, {a.dy.dim(0), K});
  expect(op, "offsets", a.offsets, DType::i32, {E + 1});
}

namespace cpu {
namespace {

constexpr int64_t kRows = 256;  // of an expert, a task

}  // namespace

void grouped_matmul(Stream& stream, const GroupedMatmul& a) {
  const int64_t E = a.b.dim(0), N = a.out.dim(1), K = a.a.dim(1);
  const bool f32 = a.out.dtype == DType::f32 && a.a.dtype == DType::f32 && a.b.dtype == DType::f32;
  const int64_t columns = std::min(N, f32 ? int64_t{512} : kPanel);
  const int64_t column_blocks = columns == 0 ? 0 : (N + columns - 1) / columns;
  const int32_t* offsets = a.offsets.as<int32_t>();
  const auto row_blocks = [&](int64_t e) {
    return (offsets[e + 1] - offsets[e] + kRows - 1) / kRows;
  };
  int64_t blocks = 0;
  for (int64_t e = 0; e < E; ++e) blocks += row_blocks(e);
  const Operand x{a.a.data, a.a.dtype, a.a.row_stride(), false};
  stream.parallel_for(blocks * column_blocks, [&](int64_t task, Scratch scratch) {
    int64_t e = 0, block = task / column_blocks;
    while (block >= row_blocks(e)) block -= row_blocks(e++);
    const int64_t i = offsets[e] + block * kRows, j = task % column_blocks * columns;
    const ConstTensorView weight = a.b[e];
    const Operand y{weight.data, weight.dtype, weight.row_stride(), a.trans_b};
    std::byte* out = a.out.data + (i * a.out.row_stride() + j) * size_of(a.out.dtype);
    gemm(out, a.out.dtype, a.out.row_stride(), std::min<int64_t>(kRows, offsets[e + 1] - i),
         std::min(columns, N - j), K, x.at(i, 0), y.at(0, j), false, scratch);
  });
}

void grouped_wgrad(Stream& stream, const GroupedWgrad& a) {
  const int64_t E = a.out.dim(0), N = a.out.dim(1), K = a.out.dim(2);
  const bool f32 = a.dy.dtype == DType::f32 && a.x.dtype == DType::f32;
  const int32_t* offsets = a.offsets.as<int32_t>();
  // Experts are the parallelism; a block's size must not depend on how many rows came.
  const int64_t block = f32 ? 512 : kPanel;
  const int64_t row_blocks = (N + block - 1) / block, column_blocks = (K + block - 1) / block;
  stream.parallel_for(E * row_blocks * column_blocks, [&](int64_t task, Scratch scratch) {
    const int64_t e = task / (row_blocks * column_blocks);
    const int64_t i = task / column_blocks % row_blocks * block, j = task % column_blocks * block;
    const int64_t first = offsets[e], rows = offsets[e + 1] - first;
    const TensorView out = a.out[e];
    const Operand dy{a.dy.data, a.dy.dtype, a.dy.row_stride(), true};
    const Operand x{a.x.data, a.x.dtype, a.x.row_stride(), false};
    gemm(out.data + (i * out.row_stride() + j) * 4, DType::f32, out.row_stride(),
         std::min(block, N - i), std::min(block, K - j), rows, dy.at(i, first), x.at(first, j),
         a.accumulate, scratch);
  });
}

}  // namespace cpu
}  // namespace nereus::ops
