// nereus submit --resume: the task of an earlier run, from what its folder says of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "recipe/cluster_config.h"
#include "recipe/tasks.h"
#include "recipe/variables.h"

namespace nereus {

struct ResumedRun {
  recipe::Task task;
  std::string folder;
  std::vector<std::string> arguments;  // of `nereus train`
  int64_t queued = 0;                  // a job of the run that Slurm still has, the last; 0: none
  std::vector<std::string> warnings;
};

// `asked`: a job's number or a run's folder. What `environment` sets wins over what the run was
// started with. Throws Error{kConfig} for a run that is not found, never started, or has saved
// nothing while no job of it is left.
ResumedRun resumed_run(const std::string& asked, const recipe::ClusterConfig&,
                       const recipe::Variables& environment);

}  // namespace nereus
