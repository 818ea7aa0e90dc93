// What a run's wall time went to: goodput is the share in steps that counted.
//
//   wall = counted + again + rerun + saving + validating + set_up + down + other
//
// `again` are steps that a later start did once more, `rerun` steps that ran again within a start
// (for the experts' capacity), `down` the time between a start's end and the next one's begin, and
// `other` what nothing tells of: steps after the last logged one, start of the program, its end.
#pragma once

#include <array>
#include <vector>

#include "report/run.h"

namespace nereus::report {

struct TimeParts {
  double counted = 0, again = 0, rerun = 0, saving = 0, validating = 0, set_up = 0, down = 0,
         other = 0;

  double total() const {
    return counted + again + rerun + saving + validating + set_up + down + other;
  }
  struct Part {
    const char* name;   // in JSON
    const char* label;  // for readers
    double TimeParts::*seconds;
  };
  static const std::array<Part, 8>& parts();
};

struct Goodput {
  TimeParts all;
  std::vector<TimeParts> starts;  // of Run::starts; `down` is before it
  bool by_clock = false;  // else no line has a time, and the wall time is the sum of the rest

  double share() const { return all.total() > 0 ? all.counted / all.total() : kUnknown; }
};

Goodput goodput(const Run& run);

}  // namespace nereus::report
