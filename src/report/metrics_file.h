// metrics.jsonl of a run, and those of its earlier starts.
#pragma once

#include <string>
#include <vector>

#include "report/run_builder.h"

namespace nereus::report {

// metrics.1.jsonl, metrics.2.jsonl, ..., metrics.jsonl of a folder: each a start, in their order.
std::vector<std::string> metrics_files(const std::string& folder);

// All lines of one; notes what could not be read.
void read_metrics(const std::string& path, Run& run, RunBuilder& builder);

}  // namespace nereus::report
