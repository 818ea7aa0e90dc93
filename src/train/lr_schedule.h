// TorchTitan's learning-rate schedule: warm-up, stable, decay. With W warm-up steps, D decay steps
// of T, and S = T + 1 - W - D (one more than is run, so that the last step is not at the end
// value), step n (from 1) has s = n - 1 and
//
//   lr * (s + 1) / W                                        s < W
//   lr                                                      s < W + S
//   lr * (m + (1 - m) a),  p = (s + 1 - W - S) / D          else
//
// with m = min_lr_factor and a = 1 - p (linear), 1 - sqrt(p) (sqrt) or (1 + cos(pi p)) / 2
// (cosine), all in double.
#pragma once

#include <cstdint>
#include <optional>

#include "config/choices.h"

namespace nereus {

class LrSchedule {
 public:
  // D is steps * decay_ratio to the nearest, ties to even, or all steps after the warm-up without a
  // ratio. A warm-up or decay that does not fit is cut, with a warning. Throws Error{kConfig} for
  // numbers outside their range.
  LrSchedule(double lr, int64_t steps, int64_t warmup, std::optional<double> decay_ratio,
             LrDecay decay_type, double min_lr_factor);

  // The rate used in a step, 1 to steps.
  double at(int64_t step) const;

 private:
  double lr_, min_factor_;
  int64_t steps_, warmup_, decay_, stable_;
  LrDecay type_;
};

}  // namespace nereus
