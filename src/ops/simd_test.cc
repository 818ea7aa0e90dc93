#include "ops/simd.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace nereus::simd {
namespace {

float bits_to_float(uint32_t u) {
  float x;
  memcpy(&x, &u, 4);
  return x;
}

double ulp(float x) {
  return static_cast<double>(std::nextafter(x, std::numeric_limits<float>::infinity())) -
         static_cast<double>(x);
}

// e^x rounded has half a unit of its own; reduction and polynomial add less than one and a half.
TEST(Exp, IsWithinTwoUnitsInTheLastPlace) {
  for (int i = -236000; i < 239700; ++i) {
    const float at = static_cast<float>(i) * 0.00037f;  // -87.3 to 88.7
    const double want = std::exp(static_cast<double>(at));
    const float got = exp(at);
    ASSERT_LE(std::abs(static_cast<double>(got) - want), 2 * ulp(static_cast<float>(want)))
        << "at " << at;
    if (at > 0) continue;
    ASSERT_EQ(exp_nonpositive(splat(at))[3], got) << "at " << at;
  }
}

TEST(Exp, HasItsLimits) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(exp(0.0f), 1);
  EXPECT_EQ(exp(-kInfinity), 0);
  EXPECT_EQ(exp(-1e30f), 0);
  EXPECT_EQ(exp(89.0f), kInfinity);
  EXPECT_EQ(exp(kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(exp(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_EQ(exp_nonpositive(splat(0))[0], 1);
  EXPECT_EQ(exp_nonpositive(splat(-kInfinity))[0], 0);
  EXPECT_EQ(exp_nonpositive(splat(-1e30f))[0], 0);
  EXPECT_TRUE(std::isnan(exp_nonpositive(splat(std::numeric_limits<float>::quiet_NaN()))[0]));
}

TEST(Bf16, LoadsAndStoresAsTheTypeItself) {
  for (uint64_t i = 0; i < uint64_t{1} << 32; i += 65521 / 7) {  // all exponents, both ties
    float x[8];
    for (uint32_t j = 0; j < 8; ++j)
      x[j] = bits_to_float((static_cast<uint32_t>(i) & ~0xffffu) | (j * 0x2000u + (j & 1)));
    bf16 got[8];
    store(got, load(x));
    const f32x8 back = load(got);
    for (int j = 0; j < 8; ++j) {
      const bf16 want(x[j]);
      ASSERT_EQ(memcmp(&got[j], &want, 2), 0) << x[j];
      const auto wide = static_cast<float>(want);
      ASSERT_TRUE(back[j] == wide || std::isnan(wide)) << wide;
    }
  }
}

TEST(Vectors, TransposeSumAndFusedMultiplyAdd) {
  f32x8 rows[8];
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j < 8; ++j) rows[i][j] = static_cast<float>(10 * i + j);
  transpose(rows);
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j < 8; ++j) EXPECT_EQ(rows[i][j], static_cast<float>(10 * j + i));
  EXPECT_EQ(sum(rows[0]), 280);
  EXPECT_EQ(max(rows[7]), 77);
  const float tiny = 0x1p-24f;  // (1 + tiny)(1 - tiny) - 1 is 0 when the product is rounded
  EXPECT_EQ(fma(splat(1 + 2 * tiny), splat(1 - 2 * tiny), splat(-1))[5], -0x1p-46f);
}

TEST(ForEach, VisitsWholeVectorsAndTheRestAndNothingBeyond) {
  for (const int64_t n : {0, 1, 7, 8, 9, 31}) {
    float x[40];
    for (int64_t i = 0; i < 40; ++i) x[i] = static_cast<float>(i);
    for_each(n, [&](auto get, auto put) { put(x, get(x, 0) + splat(100)); });
    for (int64_t i = 0; i < 40; ++i) EXPECT_EQ(x[i], static_cast<float>(i < n ? i + 100 : i)) << n;
  }
}

}  // namespace
}  // namespace nereus::simd
