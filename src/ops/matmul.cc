#include "ops/matmul.h"

#include <algorithm>

#include "ops/contract.h"
#include "ops/gemm.h"

namespace nereus::ops {

void check(const Matmul& a) {
  for (const auto& [what, view] :
       {std::pair<const char*, ConstTensorView>{"out", a.out}, {"a", a.a}, {"b", a.b}}) {
    expect_float("matmul", what, view);
    expect_rank("matmul", what, view, 2);
    NEREUS_CHECK(kContract, view.stride[1] == 1, "matmul: {} {} has strided columns", what, view);
  }
  const int64_t M = a.out.dim(0), N = a.out.dim(1), K = a.a.dim(a.trans_a ? 0 : 1);
  const Shape want_a = a.trans_a ? Shape{K, M} : Shape{M, K};
  const Shape want_b = a.trans_b ? Shape{N, K} : Shape{K, N};
  NEREUS_CHECK(kContract, a.a.shape == want_a && a.b.shape == want_b,
               "matmul: out {} = a {}{} b {}{}: shapes do not fit", a.out, a.a,
               a.trans_a ? " transposed" : "", a.b, a.trans_b ? " transposed" : "");
  NEREUS_CHECK(kContract,
               a.out.data == nullptr || a.out.count() == 0 ||
                   (a.out.data != a.a.data && a.out.data != a.b.data),
               "matmul: out {} is where {} lies", a.out, a.out.data == a.a.data ? "a" : "b");
}

namespace cpu {

void matmul(Stream& stream, const Matmul& a) {
  const int64_t M = a.out.dim(0), N = a.out.dim(1), K = a.a.dim(a.trans_a ? 0 : 1);
  const Blocks blocks(M, N, K, stream.threads());
  const Operand x{a.a.data, a.a.dtype, a.a.row_stride(), a.trans_a};
  const Operand y{a.b.data, a.b.dtype, a.b.row_stride(), a.trans_b};
  stream.parallel_for(blocks.count(), [&](int64_t task, Scratch scratch) {
    const int64_t i = task / blocks.column_blocks * blocks.rows;
    const int64_t j = task % blocks.column_blocks * blocks.columns;
    std::byte* out = a.out.data + (i * a.out.row_stride() + j) * size_of(a.out.dtype);
    gemm(out, a.out.dtype, a.out.row_stride(), std::min(blocks.rows, M - i),
         std::min(blocks.columns, N - j), K, x.at(i, 0), y.at(0, j), a.accumulate, scratch);
  });
}

}  // namespace cpu
}  // namespace nereus::ops
