// A run of the recipe "DeepSeek-V3 671B pre-training with TorchTitan", from the variables that its
// launch.sh knows: what `launch.sh` does beyond looking for the program. A pure function of the
// environment; nothing is made and nothing is started.
#pragma once

#include <string>
#include <vector>

#include "recipe/variables.h"

namespace nereus::recipe {

struct RecipeRun {
  std::string gpu_type, dtype, preset;
  int64_t gpus = 0;
  std::string install;                // LLMB_INSTALL
  std::string log_rank;               // LOG_RANK; "": not given
  std::string image;                  // RUN_CONF_IMAGE; "": no container
  bool requeues = false;              // NEREUS_REQUEUE
  std::string experiment;             // folder of the run: logs, and outputs/ below
  std::string outputs;                // job.dump_folder
  std::vector<std::string> srun;      // `srun` and its options
  std::vector<std::string> doctor;    // with NEREUS_DOCTOR: the check of all nodes, before
  std::vector<std::string> train;     // `nereus train` and its arguments
  std::vector<std::string> settings;  // what was chosen, a line each, for the log
  std::vector<std::string> warnings;
  std::vector<std::string> command() const;  // srun, then train
};

// `program`: this program's path; `recipe_folder`: where deepseek_v3_671b.toml is; `arguments` go
// to `nereus train` last. Throws Error{kConfig} with the recipe's texts.
//
// NEREUS_PRESET: original (the recipe's first release: EP 32, PP 8, Interleaved1F1B, full
// recompute, 200 steps), newer (its later settings, of v26.08: EP 64, ...), ours. A variable that
// is set wins over any preset.
RecipeRun resolve_run(const Variables& environment, const std::string& program,
                      const std::string& recipe_folder, const std::vector<std::string>& arguments);

// The variables of this process that resolve_run reads.
Variables recipe_variables();

}  // namespace nereus::recipe
