// How much a run's checkpoints take.
#pragma once

#include <string>

#include "config/job_config.h"
#include "config/model_args.h"

namespace nereus {

// Bytes of a checkpoint of the whole model: weights and moments, or weights alone.
int64_t checkpoint_bytes(const JobConfig&, const ModelArgs&, bool weights);

// Text for a person: bytes of a checkpoint, of a rank's part, of those that are kept against what
// is free where they go; "" where the run saves none.
std::string checkpoint_facts(const JobConfig&, const ModelArgs&, int64_t world);

}  // namespace nereus
