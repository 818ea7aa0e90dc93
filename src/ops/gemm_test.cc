#include "ops/gemm.h"

#include <gtest/gtest.h>

#include "ops/matmul.h"
#include "test/test_tensor.h"

namespace nereus::ops::cpu {
namespace {

TEST(Blocks, CoverAResultOnceAndFitTheScratch) {
  for (const int threads : {1, 2, 3, 16, 128}) {
    for (const int64_t M : {0, 1, 5, 6, 7, 517, 1024, 129280}) {
      for (const int64_t N : {0, 1, 16, 17, 513, 3072, 129280}) {
        for (const int64_t K : {0, 1, 256, 129280}) {
          const Blocks b(M, N, K, threads);
          EXPECT_LE(b.rows, kBlockRows);
          EXPECT_LE(b.columns, kBlockColumns);
          EXPECT_GE(b.row_blocks * b.rows * (N > 0), M * (N > 0)) << M << "x" << N;
          EXPECT_GE(b.column_blocks * b.columns * (M > 0), N * (M > 0)) << M << "x" << N;
          if (b.count() == 0) continue;
          EXPECT_LT((b.row_blocks - 1) * b.rows, M);  // none is empty
          EXPECT_LT((b.column_blocks - 1) * b.columns, N);
        }
      }
    }
  }
}

TEST(Blocks, GiveEveryThreadWorkWhereThereIsEnough) {
  EXPECT_GE(Blocks(1024, 3072, 256, 2).count(), 2);
  EXPECT_EQ(Blocks(1024, 3072, 256, 2).count() % 2, 0);
  EXPECT_GE(Blocks(256, 128, 129280, 2).count(), 2);
  EXPECT_GE(Blocks(1024, 3072, 256, 16).count(), 16);
  EXPECT_EQ(Blocks(4, 8, 16, 16).count(), 1);
}

// A GEMM's rows are the same bits alone, among others, and in whatever blocks: element (i, j) is
// a chain over k.
TEST(Gemm, ARowDoesNotDependOnItsNeighbours) {
  constexpr int64_t M = 131, N = 77, K = 700;
  Stream s = test::stream(Device::cpu());
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const bool trans_b : {false, true}) {
      auto a = test::Tensor(Device::cpu(), dtype, {M, K});
      auto b = test::Tensor(Device::cpu(), dtype, trans_b ? Shape{N, K} : Shape{K, N});
      a.fill_normal(1);
      b.fill_normal(2);
      const test::Tensor all(Device::cpu(), DType::f32, {M, N});
      const test::Tensor one(Device::cpu(), DType::f32, {1, N});
      ops::matmul(s, {.out = all, .a = a, .b = b, .trans_b = trans_b});
      for (const int64_t row : {0, 5, 6, 96, 130}) {
        ops::matmul(s, {.out = one, .a = a.view().rows(row, row + 1), .b = b, .trans_b = trans_b});
        for (int64_t j = 0; j < N; ++j) ASSERT_EQ(one[j], all[row * N + j]) << row << ", " << j;
      }
    }
  }
}

// The chain itself, one fused multiply-add after another: these bits are the same on every machine.
TEST(Gemm, AnElementIsAChainOfFusedMultiplyAdds) {
  constexpr int64_t K = 600;  // three parts of 200
  auto a = test::Tensor(Device::cpu(), DType::f32, {1, K});
  auto b = test::Tensor(Device::cpu(), DType::f32, {K, 1});
  a.fill_normal(3);
  b.fill_normal(4);
  const test::Tensor out(Device::cpu(), DType::f32, {1, 1});
  Stream s = test::stream(Device::cpu());
  ops::matmul(s, {.out = out, .a = a, .b = b});
  float want = 0;
  for (int64_t part = 0; part < 3; ++part) {
    float sum = 0;
    for (int64_t k = part * 200; k < (part + 1) * 200; ++k)
      sum = std::fma(static_cast<float>(a[k]), static_cast<float>(b[k]), sum);
    want += sum;
  }
  EXPECT_EQ(out[0], static_cast<double>(want));
}

}  // namespace
}  // namespace nereus::ops::cpu
