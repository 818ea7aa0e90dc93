// What a run's folder has besides its steps: events, experts, the configuration, where memory went.
// Each is left out when it is not there, and noted when it cannot be read.
#pragma once

#include <string>

#include "report/run.h"

namespace nereus::report {

// events.jsonl: of all starts, to which it gives their times. After the steps.
void read_events(const std::string& path, Run& run);

// experts.jsonl: at most `most` of its lines, evenly.
void read_experts(const std::string& path, Run& run, size_t most = 48);

// A resolved configuration: TOML, each value with its origin in a comment. What it tells of the
// model's arithmetic too.
void read_settings(const std::string& path, Run& run);

// The last iteration_N of a folder of memory snapshots.
void read_memory(const std::string& folder, Run& run);

}  // namespace nereus::report
