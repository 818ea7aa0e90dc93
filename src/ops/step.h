// How a step ends: what ranks send each other, and whether the step is skipped.
//
//   raise:         word[0] = max(word[0], value)
//   step_record:   record = { sum_squares, loss, overflow, signal }, the first two 0 where this
//                  rank is not the one to count them; then overflow[0] = 0, for the next step
//   step_outcome:  total = { sum, sum, maximum, maximum } of the records' columns, in order of
//                  ranks; step_ok[0] = 0 when the loss is not finite or there was an overflow,
//                  else unchanged: a skipped step also skips the steps enqueued after it
//
// Sums are f64.
#pragma once

#include "ops/op.h"

namespace nereus::ops {

inline constexpr int64_t kStepRecord = 4;  // numbers

struct Raise {
  TensorView word;  // i64 [1]
  int64_t value = 0;
};

struct StepRecord {
  TensorView record;            // f64 [4]
  TensorView overflow;          // i64 [1]
  ConstTensorView sum_squares;  // f64 [1]
  ConstTensorView loss;         // f32 [1]
  bool counts_squares = true, counts_loss = true;
  int signal = 0;
};

struct StepOutcome {
  TensorView total;         // f64 [4]
  TensorView step_ok;       // i32 [1]
  ConstTensorView records;  // f64 [P, 4], of P ranks
};

NEREUS_OP(raise, Raise)
NEREUS_OP(step_record, StepRecord)
NEREUS_OP(step_outcome, StepOutcome)

}  // namespace nereus::ops
