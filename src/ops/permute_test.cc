#include "ops/permute.h"

#include <gtest/gtest.h>

#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "test/test_tensor.h"

namespace nereus::ops {
namespace {

struct Case {
  Device device;
  DType dtype;
  int64_t T, K, E, D;
};
void PrintTo(const Case& c, std::ostream* s) {
  *s << name_of(c.dtype) << " T" << c.T << " K" << c.K << " E" << c.E << " D" << c.D;
}
std::vector<Case> cases() {
  std::vector<Case> out;
  for (const Device device : test::devices())
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const auto& [T, K, E, D] : std::vector<std::array<int64_t, 4>>{
               {0, 2, 4, 8}, {1, 1, 1, 1}, {37, 3, 8, 21}, {64, 8, 5, 64}})
        out.push_back({device, dtype, T, K, E, D});
  return out;
}
class PermuteTest : public testing::TestWithParam<Case> {};

TEST_P(PermuteTest, RowsGoToTheirExpertsAndComeBack) {
  const auto& [device, dtype, T, K, E, D] = GetParam();
  const int64_t R = T * K;
  const double u = test::unit_roundoff(dtype);
  // Experts 1 and above only: expert 0 is empty.
  const auto ids = test::Tensor(device, DType::i32, {T, K}).fill_uniform_int(1, E > 1 ? 1 : 0, E);
  const auto row_of_slot = test::Tensor(device, DType::i32, {T, K}).poison(),
             slot_of_row = test::Tensor(device, DType::i32, {R}).poison();
  const auto offsets = test::Tensor(device, DType::i32, {E + 1}).poison();
  Stream s = test::stream(device);
  permute_plan(
      s, {.row_of_slot = row_of_slot, .slot_of_row = slot_of_row, .offsets = offsets, .ids = ids});
  const auto x = test::Tensor(device, dtype, {T, D}).fill_normal(2),
             addend = test::Tensor(device, dtype, {T, D}).fill_normal(3);
  const auto w = test::Tensor(device, DType::f32, {T, K}).fill_normal(4);
  const auto rows = test::Tensor(device, dtype, {R, D}).poison(),
             weighted = test::Tensor(device, dtype, {R, D}).poison();
  permute(s, {.rows = rows, .x = x, .row_of_slot = row_of_slot});
  permute(s, {.rows = weighted, .x = x, .row_of_slot = row_of_slot, .weights = w});
  const auto y = test::Tensor(device, dtype, {R, D}).fill_normal(5);
  const auto out = test::Tensor(device, dtype, {T, D}).poison(),
             plain = test::Tensor(device, dtype, {T, D}).poison();
  combine(s, {.out = out, .rows = y, .row_of_slot = row_of_slot, .weights = w, .addend = addend});
  combine(s, {.out = plain, .rows = y, .row_of_slot = row_of_slot});
  const auto dots = test::Tensor(device, DType::f32, {T, K}).poison(),
             gathered = test::Tensor(device, DType::f32, {R}).poison();
  row_dot(s, {.out = dots, .rows = y, .x = x, .row_of_slot = row_of_slot});
  gather_scalars(s, {.out = gathered, .x = w, .index = slot_of_row});
  s.synchronize();

  // The plan: a stable sort of the slots by expert.
  const auto idv = ids.values(), ros = row_of_slot.values(), sor = slot_of_row.values(),
             off = offsets.values();
  std::vector<double> want_slots;
  std::vector<double> want_offsets{0};
  for (int64_t e = 0; e < E; ++e) {
    for (int64_t slot = 0; slot < R; ++slot)
      if (idv[static_cast<size_t>(slot)] == static_cast<double>(e))
        want_slots.push_back(static_cast<double>(slot));
    want_offsets.push_back(static_cast<double>(want_slots.size()));
  }
  ASSERT_EQ(sor, want_slots);
  ASSERT_EQ(off, want_offsets);
  for (int64_t r = 0; r < R; ++r)
    ASSERT_EQ(ros[static_cast<size_t>(sor[static_cast<size_t>(r)])], static_cast<double>(r));

  const auto xv = x.values(), av = addend.values(), wv = w.values(), yv = y.values(),
             rv = rows.values(), wrv = weighted.values();
  const auto ov = out.values(), pv = plain.values(), dv = dots.values(), gv = gathered.values();
  for (int64_t r = 0; r < R; ++r) {
    const auto slot = static_cast<int64_t>(sor[static_cast<size_t>(r)]);
    ASSERT_EQ(gv[static_cast<size_t>(r)], wv[static_cast<size_t>(slot)]);
    for (int64_t d = 0; d < D; ++d) {
      const double value = xv[static_cast<size_t>(slot / K * D + d)];
      ASSERT_EQ(rv[static_cast<size_t>(r * D + d)], value);
      ASSERT_NEAR(wrv[static_cast<size_t>(r * D + d)], value * wv[static_cast<size_t>(slot)],
                  u * std::abs(value * wv[static_cast<size_t>(slot)]));
    }
  }
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t d = 0; d < D; ++d) {
      double sum = 0, weighted_sum = av[static_cast<size_t>(t * D + d)],
             magnitude = std::abs(weighted_sum);
      for (int64_t k = 0; k < K; ++k) {
        const double v =
            yv[static_cast<size_t>(ros[static_cast<size_t>(t * K + k)]) * static_cast<size_t>(D) +
               static_cast<size_t>(d)];
        sum += v;
        weighted_sum += v * wv[static_cast<size_t>(t * K + k)];
        magnitude += std::abs(v) + std::abs(v * wv[static_cast<size_t>(t * K + k)]);
      }
      ASSERT_NEAR(pv[static_cast<size_t>(t * D + d)], sum, u * std::abs(sum) + 1e-6 * magnitude);
      ASSERT_NEAR(ov[static_cast<size_t>(t * D + d)], weighted_sum,
                  u * std::abs(weighted_sum) + 1e-6 * magnitude);
    }
    for (int64_t k = 0; k < K; ++k) {
      double dot = 0;
      for (int64_t d = 0; d < D; ++d)
        dot +=
            xv[static_cast<size_t>(t * D + d)] *
            yv[static_cast<size_t>(ros[static_cast<size_t>(t * K + k)]) * static_cast<size_t>(D) +
               static_cast<size_t>(d)];
      ASSERT_NEAR(dv[static_cast<size_t>(t * K + k)], dot, 2e-5);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(EveryDeviceTypeAndSize, PermuteTest, testing::ValuesIn(cases()));

// More slots than one pass over them on a GPU holds, and an expert with half of them.
TEST(PermutePlan, SortsManySlotsStably) {
  constexpr int64_t T = 20000, K = 8, E = 300;
  for (const Device device : test::devices()) {
    auto ids = test::Tensor(device, DType::i32, {T, K}).fill_uniform_int(1, -E, E);
    std::vector<double> values = ids.values();
    for (double& id : values) id = id < 0 ? 7 : id;
    ids.set(values);
    const auto row_of_slot = test::Tensor(device, DType::i32, {T, K}).poison(),
               slot_of_row = test::Tensor(device, DType::i32, {T * K}).poison(),
               offsets = test::Tensor(device, DType::i32, {E + 1}).poison();
    Stream s = test::stream(device);
    permute_plan(
        s,
        {.row_of_slot = row_of_slot, .slot_of_row = slot_of_row, .offsets = offsets, .ids = ids});
    s.synchronize();
    std::vector<std::vector<double>> slots(E);
    for (size_t i = 0; i < values.size(); ++i)
      slots[static_cast<size_t>(values[i])].push_back(static_cast<double>(i));
    std::vector<double> want_offsets{0}, want_slots, want_rows(values.size());
    for (const auto& of_expert : slots) {
      want_slots.insert(want_slots.end(), of_expert.begin(), of_expert.end());
      want_offsets.push_back(static_cast<double>(want_slots.size()));
    }
    for (size_t r = 0; r < want_slots.size(); ++r)
      want_rows[static_cast<size_t>(want_slots[r])] = static_cast<double>(r);
    EXPECT_EQ(offsets.values(), want_offsets);
    EXPECT_EQ(slot_of_row.values(), want_slots);
    EXPECT_EQ(row_of_slot.values(), want_rows);
  }
}

// Columns of wider tensors, which start at 16 bytes or not, and every remainder of K by eight.
TEST(Permute, TakesColumnsOfWiderTensors) {
  constexpr int64_t T = 6, D = 1048;
  for (const Device device : test::devices())
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const int64_t offset : {8, 4})
        for (const int64_t K : {1, 2, 3, 5, 6, 7, 8, 9, 15}) {
          const int64_t R = T * K, W = D + 2 * offset;
          const double u = test::unit_roundoff(dtype);
          const auto wide = [&](int64_t rows) { return test::Tensor(device, dtype, {rows, W}); };
          const auto inner = [&](const test::Tensor& t) {
            return t.view().columns(offset, offset + D);
          };
          std::vector<double> places(static_cast<size_t>(R));  // a permutation
          for (int64_t i = 0; i < R; ++i)
            places[static_cast<size_t>(i)] =
                static_cast<double>(R % 7 == 0 ? R - 1 - i : i * 7 % R);
          auto row_of_slot = test::Tensor(device, DType::i32, {T, K});
          row_of_slot.set(places);
          const auto x = wide(T).fill_normal(1), y = wide(R).fill_normal(2),
                     addend = wide(T).fill_normal(3), rows = wide(R).poison(),
                     out = wide(T).poison();
          const auto w = test::Tensor(device, DType::f32, {T, K + 1}).fill_normal(4),
                     dots = test::Tensor(device, DType::f32, {T, K + 1}).poison();
          const TensorView weights = w.view().columns(1, K + 1);
          Stream s = test::stream(device);
          permute(
              s,
              {.rows = inner(rows), .x = inner(x), .row_of_slot = row_of_slot, .weights = weights});
          combine(s, {.out = inner(out),
                      .rows = inner(y),
                      .row_of_slot = row_of_slot,
                      .weights = weights,
                      .addend = inner(addend)});
          row_dot(s, {.out = dots.view().columns(1, K + 1),
                      .rows = inner(y),
                      .x = inner(x),
                      .row_of_slot = row_of_slot});
          s.synchronize();
          const auto xv = x.values(), yv = y.values(), av = addend.values(), rv = rows.values(),
                     ov = out.values(), wv = w.values(), dv = dots.values();
          for (int64_t t = 0; t < T; ++t) {
            std::vector<double> dot(static_cast<size_t>(K));
            for (int64_t i = 0; i < W; ++i) {
              const auto at = static_cast<size_t>(t * W + i);
              const bool beside = i < offset || i >= offset + D;
              double sum = av[at], magnitude = std::abs(sum);
              for (int64_t k = 0; k < K; ++k) {
                const auto slot = static_cast<size_t>(t * K + k);
                const auto from = static_cast<size_t>(places[slot]) * static_cast<size_t>(W) +
                                  static_cast<size_t>(i);
                const double weight = wv[static_cast<size_t>(t * (K + 1) + 1 + k)];
                if (beside) {
                  ASSERT_TRUE(std::isnan(rv[from]));
                  continue;
                }
                ASSERT_NEAR(rv[from], xv[at] * weight, u * std::abs(xv[at] * weight));
                sum += yv[from] * weight;
                magnitude += std::abs(yv[from] * weight);
                dot[static_cast<size_t>(k)] += yv[from] * xv[at];
              }
              if (beside) {
                ASSERT_TRUE(std::isnan(ov[at]));
              } else {
                ASSERT_NEAR(ov[at], sum, u * std::abs(sum) + 1e-6 * magnitude);
              }
            }
            ASSERT_TRUE(std::isnan(dv[static_cast<size_t>(t * (K + 1))]));
            for (int64_t k = 0; k < K; ++k)
              ASSERT_NEAR(dv[static_cast<size_t>(t * (K + 1) + 1 + k)], dot[static_cast<size_t>(k)],
                          1e-4);
          }
        }
}

TEST(Embedding, ForwardTakesRowsAndBackwardSumsThem) {
  // T, D, and how many ids there are: few tokens of many ids, many of some, very many of few.
  constexpr int64_t kCases[][3] = {
      {50, 13, 20000}, {5000, 16, 3000}, {4000, 8, 3}, {300, 7168, 40}, {90, 2060, 64}};
  for (const Device device : test::devices()) {
    for (const auto& [T, D, different] : kCases) {
      const DType dtype = D == 13 ? DType::f32 : DType::bf16;
      const int64_t V = D > 1000 ? 64 : 20000;
      const auto table = test::Tensor(device, dtype, {V, D}).fill_normal(1),
                 dy = test::Tensor(device, dtype, {T, D}).fill_normal(2);
      auto ids = test::Tensor(device, DType::i32, {T}).fill_uniform_int(3, 0, different);
      for (int64_t t = 10; t < 20; ++t)
        ids.set_element(t, static_cast<double>(V - 1));  // one id many times
      const auto out = test::Tensor(device, dtype, {T, D}).poison();
      Stream s = test::stream(device);
      embedding_forward(s, {.out = out, .table = table, .ids = ids});
      for (const bool accumulate : {false, true}) {
        auto dtable = test::Tensor(device, DType::f32, {V, D});
        if (accumulate) {
          dtable.fill(0.5);
        } else {
          dtable.poison();
        }
        embedding_backward(s, {.dtable = dtable, .dy = dy, .ids = ids, .accumulate = accumulate});
        s.synchronize();
        std::vector<double> want(static_cast<size_t>(V * D), accumulate ? 0.5 : 0);
        const auto idv = ids.values(), dyv = dy.values(), got = dtable.values(),
                   tv = table.values(), ov = out.values();
        for (size_t i = 0; i < ov.size(); ++i) {
          const auto width = static_cast<size_t>(D);
          const size_t at = static_cast<size_t>(idv[i / width]) * width + i % width;
          want[at] += dyv[i];
          ASSERT_EQ(ov[i], tv[at]);
        }
        for (size_t i = 0; i < want.size(); ++i)
          ASSERT_NEAR(got[i], want[i], 1e-5 + 1e-6 * static_cast<double>(T / different) * 10);
      }
    }
  }
}

TEST(Elementwise, FillCastAddAndSum) {
  for (const Device device : test::devices()) {
    Stream s = test::stream(device);
    for (const int64_t n : {0, 1, 9, 70000}) {
      const auto a = test::Tensor(device, DType::f32, {n}).fill_normal(1),
                 b = test::Tensor(device, DType::f32, {n}).fill_normal(2);
      const auto out = test::Tensor(device, DType::f32, {n}).poison();
      const auto half = test::Tensor(device, DType::bf16, {n}).poison();
      const auto counts = test::Tensor(device, DType::i64, {n}).poison();
      const auto total = test::Tensor(device, DType::f32, {1}).fill(3);
      add(s, {.out = out, .a = a, .b = b});
      cast(s, {.out = half, .x = a});
      fill(s, {.out = counts, .value = 7});
      sum(s, {.out = total, .x = a, .scale = 0.5f, .accumulate = true});
      s.synchronize();
      const auto av = a.values(), bv = b.values(), ov = out.values(), hv = half.values(),
                 cv = counts.values();
      double want = 0, magnitude = 0;
      for (size_t i = 0; i < av.size(); ++i) {
        ASSERT_EQ(static_cast<float>(ov[i]), static_cast<float>(av[i]) + static_cast<float>(bv[i]));
        ASSERT_EQ(static_cast<float>(hv[i]), static_cast<float>(bf16(static_cast<float>(av[i]))));
        ASSERT_EQ(cv[i], 7);
        want += av[i];
        magnitude += std::abs(av[i]);
      }
      EXPECT_NEAR(total[0], 3 + 0.5 * want, 1e-6 + 1e-6 * magnitude);
    }
  }
}

}  // namespace
}  // namespace nereus::ops
