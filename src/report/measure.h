// How fast a run was, as the recipe states it: over a window without warm-up, from its logged
// steps.
//
//   tokens/s = sequence x global batch / step time
//
// mean, median and sample deviation over the window's lines (a line has the mean of the steps since
// the line before). FLOP/s a device in four conventions: TorchTitan's count; with all scores of
// attention; with the scores that the mask leaves; and with what is recomputed besides.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "report/run.h"

namespace nereus::report {

struct Spread {
  double mean = kUnknown, median = kUnknown, stddev = kUnknown;
  int64_t count = 0;
};
Spread spread(std::vector<double> values);  // those that are finite; stddev with n - 1, of one 0

using Window = std::pair<int64_t, int64_t>;  // steps, both included

struct Measure {
  static constexpr std::array<const char*, 4> kConventions = {"torchtitan", "non_causal", "causal",
                                                              "causal_recompute"};
  Window window{0, 0};
  Spread tokens_per_second;  // of the whole run
  Spread tokens_per_second_per_gpu, step_seconds;
  std::array<double, 4> tflops{kUnknown, kUnknown, kUnknown, kUnknown};  // means, of a device
  std::array<double, 4> mfu{kUnknown, kUnknown, kUnknown, kUnknown};     // percent
};

// Without a window: the steps after the tenth (after the first logged one in runs too short for
// that), without the first line of each start.
Measure measure(const Run& run, std::optional<Window> window = std::nullopt);

}  // namespace nereus::report
