#include "ops/cross_entropy.h"

#include <gtest/gtest.h>

#include "test/test_tensor.h"

namespace nereus::ops {
namespace {

struct Case {
  Device device;
  DType dtype;
  int64_t T, V;
};
void PrintTo(const Case& c, std::ostream* s) { *s << name_of(c.dtype) << " " << c.T << "x" << c.V; }

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const Device device : test::devices())
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const auto& [T, V] :
           {std::pair<int64_t, int64_t>{0, 5}, {1, 1}, {3, 13}, {17, 2048}, {2, 129280}})
        out.push_back({device, dtype, T, V});
  return out;
}

class CrossEntropyTest : public testing::TestWithParam<Case> {};

TEST_P(CrossEntropyTest, LossAndGradientAgreeWithTheFormula) {
  const Case& c = GetParam();
  constexpr double kScale = 0.25;
  auto logits = test::Tensor(c.device, c.dtype, {c.T, c.V}).fill_normal(1, 3, 10);
  auto labels = test::Tensor(c.device, DType::i32, {c.T}).fill_uniform_int(2, 0, c.V);
  if (c.T > 2) labels.set_element(1, -100);
  const auto nll = test::Tensor(c.device, DType::f32, {c.T}).poison();
  const auto before = logits.values(), label = labels.values();
  Stream s = test::stream(c.device);
  cross_entropy(
      s, {.logits = logits, .nll = nll, .labels = labels, .scale = kScale, .loss_only = true});
  s.synchronize();
  EXPECT_EQ(logits.values(), before);
  const auto loss_only = nll.values();
  cross_entropy(s, {.logits = logits, .nll = nll, .labels = labels, .scale = kScale});
  s.synchronize();
  EXPECT_EQ(nll.values(), loss_only);
  const auto after = logits.values();
  for (size_t t = 0; t < static_cast<size_t>(c.T); ++t) {
    const double* row = before.data() + t * static_cast<size_t>(c.V);
    if (label[t] < 0) {
      EXPECT_EQ(loss_only[t], 0);
      for (int64_t v = 0; v < c.V; ++v)
        ASSERT_EQ(after[t * static_cast<size_t>(c.V) + static_cast<size_t>(v)], 0);
      continue;
    }
    double top = -1e300, sum = 0;
    for (int64_t v = 0; v < c.V; ++v) top = std::max(top, row[v]);
    for (int64_t v = 0; v < c.V; ++v) sum += std::exp(row[v] - top);
    const auto y = static_cast<int64_t>(label[t]);
    EXPECT_NEAR(loss_only[t], std::log(sum) + top - row[y], 4e-6 * (1 + std::abs(top - row[y])));
    for (int64_t v = 0; v < c.V; ++v) {
      const double p = std::exp(row[v] - top) / sum;
      const double want = kScale * (p - (v == y ? 1 : 0));
      // A few ulp of p from exp and the sum; one rounding of the store.
      ASSERT_NEAR(after[t * static_cast<size_t>(c.V) + static_cast<size_t>(v)], want,
                  kScale * p * 2e-6 + test::unit_roundoff(c.dtype) * std::abs(want) + 1e-9);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(EveryDeviceTypeAndSize, CrossEntropyTest, testing::ValuesIn(cases()));

}  // namespace
}  // namespace nereus::ops
