#include "ops/grouped_matmul.h"

#include <algorithm>

#include "ops/contract.h"
#include "ops/gemm.h"

namespace nereus::ops {

void check(const GroupedMatmul& a) {
  const char* op = "grouped_matmul";
  for (const auto& [what, view] :
       {std::pair<const char*, ConstTensorView>{"out", a.out}, {"a", a.a}, {"b", a.b}})
    expect_float(op, what, view);
  expect_rank(op, "a", a.a, 2);
  expect_rank(op, "b", a.b, 3);
  const int64_t E = a.b.dim(0), R = a.a.dim(0), K = a.a.dim(1), N = a.b.dim(a.trans_b ? 1 : 2);
  expect(op, "a", a.a, a.a.dtype, {R, K});
  expect(op, "b", a.b, a.b.dtype, a.trans_b ? Shape{E, N, K} : Shape{E, K, N});
  expect(op, "out", a.out, a.out.dtype, {R, N});
  expect(op, "offsets", a.offsets, DType::i32, {E + 1});
}

void check(const GroupedWgrad& a) {
  const char* op = "grouped_wgrad";
  expect_float(op, "dy", a.dy);
  expect_float(op, "x", a.x);
  expect_rank(op, "dy", a.dy, 2);
  expect_rank(op, "x", a.x, 2);
  expect_rank(op, "out", a.out, 3);
  const int64_t E = a.out.dim(0), R = a.dy.dim(0), N = a.dy.dim(1), K = a.x.dim(1);
  expect(op, "dy", a.dy, a.dy.dtype, {R, N});
  expect(op, "x", a.x, a.x.dtype, {R, K});
  expect(op, "out", a.out, DType::f32, {E, N, K});
  expect(op, "offsets", a.offsets, DType::i32, {E + 1});
}

namespace cpu {
namespace {

constexpr int64_t kRows = 264, kColumns = 256;  // of a block at most

int64_t blocks_of(int64_t n, int64_t block) { return (n + block - 1) / block; }

// The rows of each expert. Offsets come from the router; a wrong one would write out of bounds.
class Experts {
 public:
  Experts(const char* op, const ConstTensorView& offsets, int64_t rows)
      : count_(offsets.dim(0) - 1), offsets_(offsets.as<int32_t>()) {
    NEREUS_CHECK(kContract, offsets_[0] == 0 && offsets_[count_] <= rows,
                 "{}: offsets run from {} to {}, expected from 0 to at most {} rows", op,
                 offsets_[0], offsets_[count_], rows);
    for (int64_t e = 0; e < count_; ++e) {
      NEREUS_CHECK(kContract, first(e) <= first(e + 1), "{}: offsets[{}] = {} > offsets[{}] = {}",
                   op, e, first(e), e + 1, first(e + 1));
    }
  }
  int64_t count() const { return count_; }
  int64_t first(int64_t e) const { return offsets_[e]; }
  int64_t rows(int64_t e) const { return first(e + 1) - first(e); }

 private:
  int64_t count_;
  const int32_t* offsets_;
};

}  // namespace

void grouped_matmul(Stream& stream, const GroupedMatmul& a) {
  const int64_t N = a.out.dim(1), K = a.a.dim(1);
  const Experts experts("grouped_matmul", a.offsets, a.out.dim(0));
  const int64_t column_blocks = blocks_of(N, kBlockColumns);
  const int64_t columns = column_blocks == 0 ? 0 : round_up(blocks_of(N, column_blocks), 16);
  int64_t blocks = 0;
  for (int64_t e = 0; e < experts.count(); ++e) blocks += blocks_of(experts.rows(e), kRows);
  const Operand x{a.a.data, a.a.dtype, a.a.row_stride()};
  stream.parallel_for(blocks * column_blocks, [&](int64_t task, Scratch scratch) {
    int64_t e = 0, block = task / column_blocks;
    while (block >= blocks_of(experts.rows(e), kRows)) block -= blocks_of(experts.rows(e++), kRows);
    const int64_t i = block * kRows, row = experts.first(e) + i;
    const int64_t j = task % column_blocks * columns;
    const ConstTensorView weight = a.b[e];
    const Operand y{weight.data, weight.dtype, weight.row_stride(), a.trans_b};
    std::byte* out = a.out.data + (row * a.out.row_stride() + j) * size_of(a.out.dtype);
    gemm(out, a.out.dtype, a.out.row_stride(), std::min(kRows, experts.rows(e) - i),
         std::min(columns, N - j), K, x.at(row, 0), y.at(0, j), false, scratch);
  });
}

void grouped_wgrad(Stream& stream, const GroupedWgrad& a) {
  const int64_t N = a.out.dim(1), K = a.out.dim(2);
  const Experts experts("grouped_wgrad", a.offsets, a.dy.dim(0));
  const int64_t row_blocks = blocks_of(N, kRows), column_blocks = blocks_of(K, kColumns);
  const int64_t blocks = row_blocks * column_blocks;
  stream.parallel_for(experts.count() * blocks, [&](int64_t task, Scratch scratch) {
    const int64_t e = task / blocks, first = experts.first(e);
    const int64_t i = task % blocks / column_blocks * kRows, j = task % column_blocks * kColumns;
    if (a.accumulate && experts.rows(e) == 0) return;
    const TensorView out = a.out[e];
    const Operand dy{a.dy.data, a.dy.dtype, a.dy.row_stride(), true};
    const Operand x{a.x.data, a.x.dtype, a.x.row_stride()};
    gemm(out.data + (i * out.row_stride() + j) * 4, DType::f32, out.row_stride(),
         std::min(kRows, N - i), std::min(kColumns, K - j), experts.rows(e), dy.at(i, first),
         x.at(first, j), a.accumulate, scratch);
  });
}

}  // namespace cpu
}  // namespace nereus::ops
