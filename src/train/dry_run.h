// What a configuration would train and need, without allocating it.
#pragma once

#include <string>

#include "config/job_config.h"

namespace nereus {

// Text for a person: parameters by kind, FLOPs a token by each convention, memory of each state by
// owner on rank 0 of `world` in the configuration's layout, activations measured by running a
// microbatch on the meta device; what the data sets' files are, where they are there. Throws
// Error{kConfig}.
std::string dry_run(const JobConfig&, int64_t world);

}  // namespace nereus
