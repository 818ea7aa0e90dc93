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

TEST(StepRecord, TellsWhatThisRankCountsAndClearsTheOverflow) {
  for (const Device device : test::devices()) {
    Stream s = test::stream(device);
    const auto squares = test::Tensor(device, DType::f64, {1}).fill(2.5),
               loss = test::Tensor(device, DType::f32, {1}).fill(0.25);
    auto overflow = test::Tensor(device, DType::i64, {1}).fill(1234567);
    const auto record = test::Tensor(device, DType::f64, {kStepRecord}).poison();
    StepRecord a{
        .record = record, .overflow = overflow, .sum_squares = squares, .loss = loss, .signal = 15};
    step_record(s, a);
    s.synchronize();
    EXPECT_EQ(record.values(), (std::vector<double>{2.5, 0.25, 1234567, 15}));
    EXPECT_EQ(overflow[0], 0);
    a.counts_squares = a.counts_loss = false;
    a.signal = 0;
    step_record(s, a);
    s.synchronize();
    EXPECT_EQ(record.values(), (std::vector<double>{0, 0, 0, 0}));
  }
}

TEST(StepOutcome, AddsInOrderOfRanksAndTakesMaxima) {
  for (const Device device : test::devices()) {
    for (const int64_t ranks : {1, 3, 128, 300}) {
      Stream s = test::stream(device);
      auto records = test::Tensor(device, DType::f64, {ranks, kStepRecord}).fill(0);
      const auto ok = test::Tensor(device, DType::i32, {1}).fill(1);
      const auto total = test::Tensor(device, DType::f64, {kStepRecord}).poison();
      double squares = 0, loss = 0;
      for (int64_t r = 0; r < ranks; ++r) {
        const double x = 1 / (1.0 + static_cast<double>(r));
        records.set_element(r * kStepRecord, x);
        records.set_element(r * kStepRecord + 1, -2 * x);
        squares += x;
        loss += -2 * x;
      }
      records.set_element((ranks - 1) * kStepRecord + 3, 10);
      step_outcome(s, {.total = total, .step_ok = ok, .records = records});
      s.synchronize();
      EXPECT_EQ(total.values(), (std::vector<double>{squares, loss, 0, 10}));
      EXPECT_EQ(ok[0], 1);
    }
  }
}

TEST(StepOutcome, AStepThatDoesNotCountTakesThoseBehindItAlong) {
  for (const Device device : test::devices()) {
    const std::vector<std::vector<double>> bad = {
        {1, std::nan(""), 0, 0}, {1, HUGE_VAL, 0, 0}, {1, 1, 48, 0}};
    for (const std::vector<double>& record : bad) {
      Stream s = test::stream(device);
      auto records = test::Tensor(device, DType::f64, {2, kStepRecord}).fill(1);
      for (int64_t i = 0; i < 4; ++i) {
        records.set_element(4 + i, record[static_cast<size_t>(i)]);
        records.set_element(i, i == 2 ? 0 : 1);
      }
      const auto ok = test::Tensor(device, DType::i32, {1}).fill(1);
      const auto total = test::Tensor(device, DType::f64, {kStepRecord}).fill(0);
      step_outcome(s, {.total = total, .step_ok = ok, .records = records});
      s.synchronize();
      EXPECT_EQ(ok[0], 0);
      EXPECT_EQ(total[2], record[2]);
      records.fill(0);
      step_outcome(s, {.total = total, .step_ok = ok, .records = records});
      s.synchronize();
      EXPECT_EQ(ok[0], 0) << "only the host sets it again";
    }
  }
}

}  // namespace
}  // namespace nereus::ops
