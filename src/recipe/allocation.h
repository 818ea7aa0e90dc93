// Nodes and tasks of a Slurm job, against those that a run of the recipe needs. `variables`: as
// resolve_run has them.
#pragma once

#include <string>
#include <vector>

#include "recipe/recipe_run.h"

namespace nereus::recipe {

// `sbatch`, the options that ask for the run's nodes and tasks, and `script`.
std::vector<std::string> sbatch_for(const RecipeRun& run, const Variables& variables,
                                    const std::string& script);

// Throws Error{kConfig} in a job (SLURM_JOB_ID) with too few tasks (SLURM_NTASKS) or, where the
// job does not say how many, too few nodes (SLURM_JOB_NUM_NODES) for the ranks: what there is,
// and the command line that works. Outside of a job, and with `overcommit` among
// ADDITIONAL_SLURM_PARAMS, everything is enough.
void check_allocation(const RecipeRun& run, const Variables& variables, const std::string& script);

}  // namespace nereus::recipe
