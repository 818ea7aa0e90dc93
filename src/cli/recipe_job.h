// The batch job of a run of the recipe, from when its ranks start until it ends: passes signals on,
// has Slurm requeue the job where that was asked for, and says how a run that is not finished goes
// on.
#pragma once

#include <string>

#include "recipe/recipe_run.h"

namespace nereus {

// launch.sh's #SBATCH --signal=TERM@600.
inline constexpr int kSignalLead = 600;

struct RecipeJob {
  recipe::RecipeRun run;
  std::string id;              // SLURM_JOB_ID
  std::string checkpoints;     // the folder of the run's checkpoints
  int64_t steps = 0;           // training.steps
  std::string resume_command;  // a command line
};

// Runs srun until the ranks have ended and returns its exit code.
//
// A signal to this process alone (sbatch --signal=B:TERM@N) is sent on to the ranks. With
// NEREUS_REQUEUE a run that SIGTERM or SIGUSR1 stopped, and that has saved steps since it started,
// is requeued, unless the job is being cancelled. A job whose time limit is hardly longer than
// kSignalLead gets that signal when it starts: there the ranks are started once more.
int run_job(const RecipeJob&);

}  // namespace nereus
