// A step's figures, for tests of what shows them.
#pragma once

#include "observe/metrics.h"

namespace nereus::test {

inline StepMetrics example_step() {
  StepMetrics m;
  m.step = 7;
  m.loss = 8.01234;
  m.grad_norm = 1.5;
  m.lr = 2.2e-4;
  m.tokens_seen = int64_t{1} << 60;
  return m;
}

}  // namespace nereus::test
