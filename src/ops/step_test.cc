#include "ops/step.h"

#include <gtest/gtest.h>

#include "test/test_tensor.h"

namespace nereus::ops {
namespace {

TEST(Raise, KeepsTheLargest) {
  for (const Device device : test::devices()) {
    Stream s = test::stream(device);
    const auto word = test::Tensor(device, DType::i64, {1}).fill(0);
    const std::vector<std::pair<int64_t, double>> steps = {{7, 7}, {3, 7}, {9, 9}};
    for (const auto& [value, want] : steps) {
      raise(s, {.word = word, .value = value});
      s.synchronize();
      EXPECT_EQ(word[0], want);
    }
  }
}

TEST(MaxOverMean, IsOfTheBusiestExpertInTheWorstLayer) {
  for (const Device device : test::devices()) {
    Stream s = test::stream(device);
    const auto out = test::Tensor(device, DType::f64, {1}).poison();
    for (const int64_t experts : {1, 2, 31, 256})
      for (const int64_t layers : {0, 1, 3, 19}) {
        auto load = test::Tensor(device, DType::i64, {layers, experts}).fill(0);
        double want = 0;
        for (int64_t l = 0; l < layers; ++l) {
          double sum = 0, most = 0;
          for (int64_t e = 0; e < experts && l % 5 != 1; ++e) {  // others have no tokens
            const int64_t n = (7 * e + 3 * l) % 17 + l;
            load.set_element(l * experts + e, static_cast<double>(n));
            sum += static_cast<double>(n);
            most = std::max(most, static_cast<double>(n));
          }
          if (sum > 0) want = std::max(want, most * static_cast<double>(experts) / sum);
        }
        max_over_mean(s, {.out = out, .load = load});
        s.synchronize();
        EXPECT_EQ(out[0], want) << layers << " x " << experts;
      }
  }
}

TEST(StepRecord, TellsWhatThisRankCountsAndClearsTheOverflow) {
  for (const Device device : test::devices()) {
    Stream s = test::stream(device);
    const auto squares = test::Tensor(device, DType::f64, {1}).fill(2.5),
               loss = test::Tensor(device, DType::f32, {1}).fill(0.25),
               imbalance = test::Tensor(device, DType::f64, {1}).fill(1.375);
    auto overflow = test::Tensor(device, DType::i64, {1}).fill(1234567);
    const auto record = test::Tensor(device, DType::f64, {kStepRecord}).poison();
    StepRecord a{.record = record,
                 .overflow = overflow,
                 .sum_squares = squares,
                 .loss = loss,
                 .max_over_mean = imbalance,
                 .pairs = 4096,
                 .signal = 15,
                 .figures = {0.5, 80, 99}};
    step_record(s, a);
    s.synchronize();
    EXPECT_EQ(record.values(),
              (std::vector<double>{2.5, 0.25, 4096, 1234567, 1.375, 15, 0.25, 0.5, 80, 99}));
    EXPECT_EQ(overflow[0], 0);
    a.counts_squares = a.counts_loss = false;
    a.pairs = 0;
    a.signal = 0;
    a.figures = {};
    step_record(s, a);
    s.synchronize();
    EXPECT_EQ(record.values(), (std::vector<double>{0, 0, 0, 0, 1.375, 0, 0, 0, 0, 0}));
  }
}

TEST(StepOutcome, AddsInOrderOfRanksAndTakesMaxima) {
  for (const Device device : test::devices()) {
    for (const int64_t ranks : {1, 3, 128, 300}) {
      Stream s = test::stream(device);
      auto records = test::Tensor(device, DType::f64, {ranks, kStepRecord}).fill(0);
      const auto ok = test::Tensor(device, DType::i32, {1}).fill(1);
      const auto total = test::Tensor(device, DType::f64, {kStepRecord}).poison();
      double squares = 0, loss = 0, pairs = 0;
      for (int64_t r = 0; r < ranks; ++r) {
        const double x = 1 / (1.0 + static_cast<double>(r));
        records.set_element(r * kStepRecord, x);
        records.set_element(r * kStepRecord + 1, -2 * x);
        records.set_element(r * kStepRecord + 2, 3 * x);
        squares += x;
        loss += -2 * x;
        pairs += 3 * x;
      }
      for (int64_t i = 4; i < kStepRecord; ++i)
        records.set_element(i % ranks * kStepRecord + i, static_cast<double>(10 * i));
      step_outcome(s, {.total = total, .step_ok = ok, .records = records});
      s.synchronize();
      EXPECT_EQ(total.values(),
                (std::vector<double>{squares, loss, pairs, 0, 40, 50, 60, 70, 80, 90}));
      EXPECT_EQ(ok[0], 1);
    }
  }
}

TEST(StepOutcome, AStepThatDoesNotCountTakesThoseBehindItAlong) {
  for (const Device device : test::devices()) {
    const std::vector<std::vector<double>> bad = {
        {1, std::nan(""), 0, 0}, {1, HUGE_VAL, 0, 0}, {1, 1, 0, 48}};
    for (const std::vector<double>& record : bad) {
      Stream s = test::stream(device);
      auto records = test::Tensor(device, DType::f64, {2, kStepRecord}).fill(1);
      for (int64_t i = 0; i < kStepRecord; ++i) {
        records.set_element(kStepRecord + i, i < 4 ? record[static_cast<size_t>(i)] : 0);
        records.set_element(i, i == 3 ? 0 : 1);
      }
      const auto ok = test::Tensor(device, DType::i32, {1}).fill(1);
      const auto total = test::Tensor(device, DType::f64, {kStepRecord}).fill(0);
      step_outcome(s, {.total = total, .step_ok = ok, .records = records});
      s.synchronize();
      EXPECT_EQ(ok[0], 0);
      EXPECT_EQ(total[3], record[3]);
      records.fill(0);
      step_outcome(s, {.total = total, .step_ok = ok, .records = records});
      s.synchronize();
      EXPECT_EQ(ok[0], 0) << "only the host sets it again";
    }
  }
}

}  // namespace
}  // namespace nereus::ops
