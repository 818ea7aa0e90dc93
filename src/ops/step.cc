#include "ops/step.h"

#include <algorithm>
#include <cmath>

#include "ops/contract.h"

namespace nereus::ops {

void check(const Raise& a) { expect("raise", "word", a.word, DType::i64, {1}); }

void check(const MaxOverMean& a) {
  expect("max_over_mean", "out", a.out, DType::f64, {1});
  expect_rank("max_over_mean", "load", a.load, 2);
  expect("max_over_mean", "load", a.load, DType::i64, a.load.shape);
  expect_contiguous("max_over_mean", "load", a.load);
}

void check(const StepRecord& a) {
  expect("step_record", "record", a.record, DType::f64, {kStepRecord});
  expect("step_record", "overflow", a.overflow, DType::i64, {1});
  expect("step_record", "sum_squares", a.sum_squares, DType::f64, {1});
  expect("step_record", "loss", a.loss, DType::f32, {1});
  expect("step_record", "max_over_mean", a.max_over_mean, DType::f64, {1});
}

void check(const StepOutcome& a) {
  expect_rank("step_outcome", "records", a.records, 2);
  expect("step_outcome", "records", a.records, DType::f64, {a.records.dim(0), kStepRecord});
  expect_contiguous("step_outcome", "records", a.records);
  expect("step_outcome", "total", a.total, DType::f64, {kStepRecord});
  expect("step_outcome", "step_ok", a.step_ok, DType::i32, {1});
}

namespace cpu {

void raise(Stream&, const Raise& a) {
  int64_t& word = a.word.as<int64_t>()[0];
  word = std::max(word, a.value);
}

void max_over_mean(Stream&, const MaxOverMean& a) {
  const int64_t E = a.load.dim(1);
  const int64_t* load = a.load.as<int64_t>();
  double worst = 0;
  for (int64_t l = 0; l < a.load.dim(0); ++l, load += E) {
    int64_t sum = 0, most = 0;
    for (int64_t e = 0; e < E; ++e) {
      sum += load[e];
      most = std::max(most, load[e]);
    }
    if (sum > 0)
      worst = std::max(
          worst, static_cast<double>(most) * static_cast<double>(E) / static_cast<double>(sum));
  }
  a.out.as<double>()[0] = worst;
}

void step_record(Stream&, const StepRecord& a) {
  double* record = a.record.as<double>();
  int64_t& overflow = a.overflow.as<int64_t>()[0];
  record[0] = a.counts_squares ? a.sum_squares.as<double>()[0] : 0;
  record[1] = a.counts_loss ? static_cast<double>(a.loss.as<float>()[0]) : 0;
  record[2] = a.pairs;
  record[3] = static_cast<double>(overflow);
  record[4] = a.max_over_mean.as<double>()[0];
  record[5] = a.signal;
  record[6] = record[1];
  std::copy(a.figures.begin(), a.figures.end(), record + 7);
  overflow = 0;
}

void step_outcome(Stream&, const StepOutcome& a) {
  double* total = a.total.as<double>();
  const double* record = a.records.as<double>();
  std::fill(total, total + kStepRecord, 0);
  for (int64_t r = 0; r < a.records.dim(0); ++r, record += kStepRecord) {
    for (int64_t i = 0; i < 3; ++i) total[i] += record[i];
    for (int64_t i = 3; i < kStepRecord; ++i) total[i] = std::max(total[i], record[i]);
  }
  if (!std::isfinite(total[1]) || total[3] > 0) a.step_ok.as<int32_t>()[0] = 0;
}

}  // namespace cpu
}  // namespace nereus::ops
