// How a run's work is divided among its ranks, from its configuration.
#pragma once

#include <string>

#include "config/job_config.h"
#include "config/model_args.h"
#include "engine/engine.h"
#include "parallel/mesh.h"

namespace nereus {

struct RunLayout {
  Mesh mesh;
  Pipeline pipeline = {};
  int64_t global_batch = 1;  // rows a step
  int64_t local_rows = 1;    // of them, a data-parallel rank's
  int64_t microbatch_rows = 1;
  int microbatches = 1;      // a step on each rank: local_rows / microbatch_rows
  std::string warning = {};  // to be logged; "" for none
};

// Are weights and gradients whole a block at a time only? fsdp_reshard_after_forward.
bool reshards(const JobConfig&);

// A step's microbatches all go through one schedule: gradient accumulation makes it longer. Throws
// Error{kConfig}: degrees, batches and models that cannot be divided like that.
RunLayout run_layout(const JobConfig&, const ModelArgs&, int64_t ranks);

}  // namespace nereus
