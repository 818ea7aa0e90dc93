#include "ops/cross_entropy_parts.h"

#include <gtest/gtest.h>

#include <cmath>

#include "test/test_tensor.h"

namespace nereus::ops {
namespace {

// Rows in parts of unlike width, each on its own, against the formula for whole rows.
TEST(CrossEntropyParts, TogetherAreTheWholeRow) {
  constexpr int64_t T = 7;
  constexpr double kScale = 0.25;
  for (const Device device : test::devices()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const std::vector<int64_t>& ends :
           {std::vector<int64_t>{40}, {1, 40}, {16, 48, 2000}, {8, 300, 301, 5000}}) {
        const int64_t V = ends.back(), P = static_cast<int64_t>(ends.size());
        auto whole = test::Tensor(device, dtype, {T, V}).fill_normal(1, 3, 5);
        // A row with nothing finite in its first part.
        if (P > 1)
          for (int64_t v = 0; v < ends[0]; ++v) whole.set_element(2 * V + v, -INFINITY);
        auto labels = test::Tensor(device, DType::i32, {T}).fill_uniform_int(2, ends[0] % V, V);
        labels.set_element(1, -100);
        labels.set_element(3, 0);
        const auto before = whole.values(), label = labels.values();
        const auto stats = test::Tensor(device, DType::f32, {P, 3 * T}).poison();
        Stream s = test::stream(device);
        const TensorView logits = whole, all = stats;
        for (int64_t p = 0, begin = 0; p < P; begin = ends[static_cast<size_t>(p++)])
          cross_entropy_stats(s, {.stats = all[p].reshape({3, T}),
                                  .logits = logits.columns(begin, ends[static_cast<size_t>(p)]),
                                  .labels = labels,
                                  .first = begin});
        for (const bool loss_only : {true, false}) {
          std::vector<double> losses;
          for (int64_t p = 0, begin = 0; p < P; begin = ends[static_cast<size_t>(p++)]) {
            const auto nll = test::Tensor(device, DType::f32, {T}).poison();
            cross_entropy_join(s, {.logits = logits.columns(begin, ends[static_cast<size_t>(p)]),
                                   .nll = nll,
                                   .stats = all,
                                   .labels = labels,
                                   .first = begin,
                                   .scale = kScale,
                                   .loss_only = loss_only});
            s.synchronize();
            if (p > 0) {
              EXPECT_EQ(nll.values(), losses) << "every part has the loss";
            }
            losses = nll.values();
          }
          const auto after = whole.values();
          if (loss_only) {
            EXPECT_EQ(after, before);
          }
          for (size_t t = 0; t < T; ++t) {
            const double* row = before.data() + t * static_cast<size_t>(V);
            double top = -1e300, sum = 0;
            for (int64_t v = 0; v < V; ++v) top = std::max(top, row[v]);
            for (int64_t v = 0; v < V; ++v) sum += std::exp(row[v] - top);
            const auto y = static_cast<int64_t>(label[t]);
            const double loss = y < 0 ? 0 : std::log(sum) + top - row[y];
            EXPECT_NEAR(losses[t], loss, 4e-6 * (1 + std::abs(loss))) << t;
            for (int64_t v = 0; v < V && !loss_only; ++v) {
              const double p = std::exp(row[v] - top) / sum;
              const double want = y < 0 ? 0 : kScale * (p - (v == y ? 1 : 0));
              ASSERT_NEAR(after[t * static_cast<size_t>(V) + static_cast<size_t>(v)], want,
                          kScale * p * 2e-6 + test::unit_roundoff(dtype) * std::abs(want) + 1e-9);
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace nereus::ops
