#include "ops/cross_entropy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
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
      for (const auto& [T, V] : {std::pair<int64_t, int64_t>{0, 5},
                                 {1, 1},
                                 {3, 13},
                                 {17, 2048},
                                 {5, 16160},
                                 {3, 20001},
                                 {3, 40000},
                                 {2, 129280},
                                 {2, 140000}})
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

test::Tensor label(double value, Device device = Device::cpu()) {
  auto t = test::Tensor(device, DType::i32, {1});
  t.set({value});
  return t;
}

// Sizes around those of vectors and chunks, in a column of a wider tensor that starts at 16 bytes
// or not.
TEST(CrossEntropy, WritesItsRowsOnly) {
  for (const Device device : test::devices()) {
    for (const auto& [offset, V] : {std::pair<int64_t, int64_t>{4, 1},
                                    {4, 7},
                                    {4, 8},
                                    {4, 31},
                                    {4, 32},
                                    {4, 33},
                                    {4, 2047},
                                    {4, 2048},
                                    {4, 2049},
                                    {4, 4100},
                                    {8, 8},
                                    {8, 2048},
                                    {8, 2056},
                                    {8, 24008}}) {
      for (const DType dtype : {DType::f32, DType::bf16}) {
        const int64_t width = V + 2 * offset;
        auto wide = test::Tensor(device, dtype, {2, width}).poison();
        std::vector<double> start = wide.values();
        std::fill_n(start.begin() + offset, V, 1.0);
        wide.set(start);
        const auto nll = test::Tensor(device, DType::f32, {1});
        Stream s = test::stream(device);
        cross_entropy(s, {.logits = wide.view().rows(0, 1).columns(offset, offset + V),
                          .nll = nll,
                          .labels = label(static_cast<double>(V - 1), device)});
        s.synchronize();
        const auto got = wide.values();
        EXPECT_NEAR(nll[0], std::log(static_cast<double>(V)),
                    1e-6 * (1 + std::log(static_cast<double>(V))));
        for (int64_t i = 0; i < 2 * width; ++i) {
          if (i < offset || i >= offset + V) {
            ASSERT_TRUE(std::isnan(got[static_cast<size_t>(i)]))
                << V << ": wrote outside of its row";
            continue;
          }
          const double p = 1 / static_cast<double>(V), want = i == offset + V - 1 ? p - 1 : p;
          ASSERT_NEAR(got[static_cast<size_t>(i)], want,
                      2 * test::unit_roundoff(dtype) * std::abs(want) + 1e-7 * p);
        }
      }
    }
  }
}

// One far larger logit, at the start, inside, and last: no overflow, and what was summed before the
// largest came shrinks to nothing.
TEST(CrossEntropy, AHugeLogitTakesAll) {
  for (const Device device : test::devices()) {
    for (const int64_t V : {5000, 40000, 5001}) {  // one, and several thread blocks; not in packs
      for (const int64_t largest : {int64_t{0}, V / 2, V - 1}) {
        auto logits = test::Tensor(device, DType::f32, {1, V}).fill_normal(1);
        logits.set_element(largest, 3e4);
        const auto nll = test::Tensor(device, DType::f32, {1});
        Stream s = test::stream(device);
        cross_entropy(s, {.logits = logits, .nll = nll, .labels = label(17, device)});
        s.synchronize();
        const auto got = logits.values();
        EXPECT_NEAR(nll[0], 3e4, 10);
        for (int64_t v = 0; v < V; ++v)
          ASSERT_EQ(got[static_cast<size_t>(v)], (v == largest ? 1 : 0) - (v == 17 ? 1 : 0));
      }
    }
  }
}

TEST(CrossEntropy, MinusInfinityHasNoProbabilityAndNanIsNotHidden) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const Device device : test::devices()) {
    for (const int64_t V : {3000, 30000, 3001}) {
      auto logits = test::Tensor(device, DType::f32, {1, V});
      std::vector<double> values(static_cast<size_t>(V),
                                 -kInfinity);  // many chunks of nothing else
      values[2500] = 1;
      values[2700] = 1;
      logits.set(values);
      const auto nll = test::Tensor(device, DType::f32, {1});
      const auto labels = label(2700, device);
      Stream s = test::stream(device);
      cross_entropy(s, {.logits = logits, .nll = nll, .labels = labels});
      s.synchronize();
      EXPECT_NEAR(nll[0], std::log(2.0), 1e-7);
      EXPECT_EQ(logits[0], 0);
      EXPECT_EQ(logits[V - 1], 0);
      EXPECT_EQ(logits[2500], 0.5);
      EXPECT_EQ(logits[2700], -0.5);
      values[100] = std::numeric_limits<double>::quiet_NaN();
      logits.set(values);
      cross_entropy(s, {.logits = logits, .nll = nll, .labels = labels});
      s.synchronize();
      EXPECT_TRUE(std::isnan(nll[0]));
    }
  }
}

TEST(CrossEntropy, GivesTheSameBitsOnAnyNumberOfThreads) {
  auto labels = test::Tensor(Device::cpu(), DType::i32, {9});
  labels.fill_uniform_int(2, 0, 3001);
  std::vector<double> first;
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    Stream s(Device::cpu(), &pool);
    auto logits = test::Tensor(Device::cpu(), DType::f32, {9, 3001});
    logits.fill_normal(1);
    const auto nll = test::Tensor(Device::cpu(), DType::f32, {9});
    cross_entropy(s, {.logits = logits, .nll = nll, .labels = labels});
    auto got = logits.values();
    for (const double x : nll.values()) got.push_back(x);
    if (first.empty()) first = got;
    EXPECT_EQ(got, first) << threads << " threads";
  }
}

TEST(CrossEntropy, RefusesALabelBeyondTheVocabulary) {
  const test::Tensor logits(Device::cpu(), DType::f32, {1, 5}), nll(Device::cpu(), DType::f32, {1});
  Stream s = test::stream(Device::cpu());
  EXPECT_THAT(
      [&] { cross_entropy(s, {.logits = logits, .nll = nll, .labels = label(5)}); },
      testing::ThrowsMessage<Error>(testing::HasSubstr("labels[0] is 5, logits f32 [1, 5]")));
}

}  // namespace
}  // namespace nereus::ops
