// What a configuration asks of the model, the optimizer's states and recomputation.
#pragma once

#include <vector>

#include "config/job_config.h"
#include "config/model_args.h"
#include "model/recompute.h"
#include "parallel/parameter_store.h"

namespace nereus {

// The model's arguments of a run, its sequence length and end-of-document id included.
ModelArgs training_model_args(const JobConfig&);

// Of the optimizer's moments.
DType moment_type(const JobConfig&);
// What a run on a GPU keeps in host memory; on the CPU nothing, which is all of it. Throws
// Error{kConfig} when products read what would be there.
Offload offload(const JobConfig&, bool gpu);

// What each block recomputes, by activation_checkpoint.mode.
std::vector<Recompute> recompute_by_block(const JobConfig&, int64_t blocks);

}  // namespace nereus
