// A run held against what it would be refused for, and what it would need, before its ranks,
// devices and data are there: for those who queue runs. `nereus train --dry-run` describes the same
// at length.
#pragma once

#include "config/job_config.h"
#include "engine/memory_table.h"
#include "engine/run_layout.h"
#include "train/checkpoint_facts.h"
#include "train/data_facts.h"

namespace nereus {

struct RunCheck {
  ModelArgs args;
  RunLayout layout;
  int rank = 0;             // the one that needs most memory
  MemoryTable memory = {};  // its
  double bubble = 0;        // idle share of the pipeline's step, at equal costs of its parts
  DataFacts data = {};
  CheckpointFacts checkpoints = {};
};

// For `world` ranks. Throws Error{kConfig} for what such a run would be refused for, but for what
// is not on this machine and for memory.
RunCheck check_run(const JobConfig&, int64_t world);

}  // namespace nereus
