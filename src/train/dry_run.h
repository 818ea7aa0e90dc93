// What a configuration would train and need, without allocating it.
#pragma once

#include <string>

#include "config/job_config.h"

namespace nereus {

// Text for a person: parameters by kind, FLOPs a token by each convention, memory of each state by
// owner on the rank of `world` that needs the most and on the first and the last of a pipeline,
// activations measured by running a microbatch on the meta device; what the data sets' files are,
// where they are there; with device.kind cuda the last line says whether it fits the GPU. Throws
// Error{kConfig}.
struct DryRun {
  std::string text;
  bool fits = true;  // false: the GPU that was asked for (device.gpu_type, gpu_memory_gib) is too
                     // small, or the disk for the checkpoints
};
DryRun dry_run(const JobConfig&, int64_t world);

}  // namespace nereus
