// How much a run's checkpoints take.
#pragma once

#include <string>
#include <vector>

#include "config/job_config.h"
#include "config/model_args.h"

namespace nereus {

// Bytes of a checkpoint of the whole model: weights and moments, or weights alone.
int64_t checkpoint_bytes(const JobConfig&, const ModelArgs&, bool weights);

// For a person, a line each: bytes of a checkpoint, of a rank's part, of a node's host memory, of
// those that are kept against what is free where they go. None where the run saves none.
struct CheckpointFacts {
  std::vector<std::string> lines;
  std::string too_large;  // "" when they fit where they go, else why not, and what to do
};
CheckpointFacts checkpoint_facts(const JobConfig&, const ModelArgs&, int64_t world);

}  // namespace nereus
