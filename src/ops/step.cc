#include "ops/step.h"

#include <algorithm>
#include <cmath>

#include "ops/contract.h"

namespace nereus::ops {

void check(const Raise& a) { expect("raise", "word", a.word, DType::i64, {1}); }

void check(const StepRecord& a) {
  expect("step_record", "record", a.record, DType::f64, {kStepRecord});
  expect("step_record", "overflow", a.overflow, DType::i64, {1});
  expect("step_record", "sum_squares", a.sum_squares, DType::f64, {1});
  expect("step_record", "loss", a.loss, DType::f32, {1});
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

void step_record(Stream&, const StepRecord& a) {
  double* record = a.record.as<double>();
  int64_t& overflow = a.overflow.as<int64_t>()[0];
  record[0] = a.counts_squares ? a.sum_squares.as<double>()[0] : 0;
  record[1] = a.counts_loss ? static_cast<double>(a.loss.as<float>()[0]) : 0;
  record[2] = static_cast<double>(overflow);
  record[3] = a.signal;
  overflow = 0;
}

void step_outcome(Stream&, const StepOutcome& a) {
  double* total = a.total.as<double>();
  const double* record = a.records.as<double>();
  std::fill(total, total + kStepRecord, 0);
  for (int64_t r = 0; r < a.records.dim(0); ++r, record += kStepRecord) {
    total[0] += record[0];
    total[1] += record[1];
    total[2] = std::max(total[2], record[2]);
    total[3] = std::max(total[3], record[3]);
  }
  if (!std::isfinite(total[1]) || total[2] > 0) a.step_ok.as<int32_t>()[0] = 0;
}

}  // namespace cpu
}  // namespace nereus::ops
