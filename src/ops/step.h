// How a step ends: what ranks send each other, and whether the step is skipped.
//
//   raise:         word[0] = max(word[0], value)
//   max_over_mean: out[0] = the maximum over l of E max_e load[l,e] / sum_e load[l,e], or 0 where
//                  nothing was counted: of the busiest expert, in the worst layer
//   step_record:   record = { sum_squares, loss, pairs, overflow, max_over_mean, signal, loss,
//                  figures }, sum_squares and loss 0 where this rank is not the one to count them;
//                  then overflow[0] = 0, for the next step
//   step_outcome:  total = the sums of the records' first three columns and the maxima of the
//                  others, in order of ranks; step_ok[0] = 0 when the loss is not finite or
//                  there was an overflow, else unchanged: a skipped step also skips the
//                  steps enqueued after it
//
// Sums are f64.
#pragma once

#include <array>

#include "ops/op.h"

namespace nereus::ops {

inline constexpr int64_t kStepFigures = 3;                // numbers that are only reported
inline constexpr int64_t kStepRecord = 7 + kStepFigures;  // numbers

struct Raise {
  TensorView word;  // i64 [1]
  int64_t value = 0;
};

struct MaxOverMean {
  TensorView out;        // f64 [1]
  ConstTensorView load;  // i64 [L, E]
};

struct StepRecord {
  TensorView record;              // f64 [kStepRecord]
  TensorView overflow;            // i64 [1]
  ConstTensorView sum_squares;    // f64 [1]
  ConstTensorView loss;           // f32 [1]
  ConstTensorView max_over_mean;  // f64 [1]
  bool counts_squares = true, counts_loss = true;
  double pairs = 0;  // of queries and keys in attention, as the host counts them
  int signal = 0;
  std::array<double, kStepFigures> figures = {};  // of the host
};

struct StepOutcome {
  TensorView total;         // f64 [kStepRecord]
  TensorView step_ok;       // i32 [1]
  ConstTensorView records;  // f64 [P, kStepRecord], of P ranks
};

NEREUS_OP(raise, Raise)
NEREUS_OP(max_over_mean, MaxOverMean)
NEREUS_OP(step_record, StepRecord)
NEREUS_OP(step_outcome, StepOutcome)

}  // namespace nereus::ops
