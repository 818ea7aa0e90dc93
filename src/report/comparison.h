// Where runs first differ: in their settings, and in what they computed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "report/run.h"

namespace nereus::report {

struct Comparison {
  struct Row {
    std::string key;
    std::vector<std::string> values;  // by run; "" where it has none
  };
  // Of a run against the first one, on steps that both logged.
  struct Pair {
    int64_t common = 0;                           // such steps
    int64_t first_step = -1;                      // with another loss; -1: none
    int64_t one_percent = -1;                     // with a loss that is 1 % or more apart
    int64_t norm_step = -1;                       // with another gradient norm
    double loss_a = kUnknown, loss_b = kUnknown;  // at first_step
    double largest = 0;         // relative difference of losses, where both are finite
    int64_t largest_step = -1;  // -1: they differ nowhere but where one is not
  };
  std::vector<Row> settings;  // that differ; not the folders of output
  std::vector<Pair> pairs;    // of runs 1, 2, ...
  bool models_differ = false;
};

Comparison compare(const std::vector<Run>& runs);

}  // namespace nereus::report
