// What a run of the recipe was started with, as launch.json in its folder: another job goes on with
// it by that, and a new one sees that it is not finished.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "recipe/recipe_run.h"

namespace nereus::recipe {

inline constexpr const char* kRecordFile = "launch.json";

struct RunRecord {
  std::string job = {};                     // that started last
  Variables variables = {};                 // the recipe's, without Slurm's own
  std::vector<std::string> arguments = {};  // of `nereus train`, behind the recipe's
  // What must be the same for the same run: `nereus train`'s arguments without places.
  std::vector<std::string> settings = {};
  int64_t steps = 0;             // training.steps
  std::string checkpoints = {};  // the folder of checkpoints, below the run's
  bool operator==(const RunRecord&) const = default;
};

// Of a run that starts with these.
RunRecord record_of(const RecipeRun&, const Variables&, const std::vector<std::string>& arguments);

// Throws Error{kConfig} when it cannot be written.
void write_record(const std::string& folder, const RunRecord&);
// None where there is none, or none that can be read.
std::optional<RunRecord> read_record(const std::string& folder);

// The folder of a run: of a job (its number), or the folder itself or its outputs. Jobs are looked
// for in the experiments of all workloads of `install`. Throws Error{kConfig} that says what was
// looked for where.
std::string find_run_folder(const std::string& job_or_folder, const std::string& install);

// NEREUS_RESUME: `variables`, where it is set, with those of the run that it names for what they
// leave open, and LLMB_EXPERIMENT_DIR, its folder; and before `arguments` those of that run.
// Throws Error{kConfig} as find_run_folder does, when LLMB_EXPERIMENT_DIR names another folder, and
// when the run has nothing to go on from.
struct Resumed {
  Variables variables;
  std::vector<std::string> arguments;
};
Resumed resumed(Variables variables, std::vector<std::string> arguments);

// The steps of the newest checkpoint in a folder of them; -1: there is none.
int64_t newest_checkpoint(const std::string& folder);

// The command line that goes on with the run; `script`: launch.sh.
std::string resume_command(const RecipeRun&, const Variables&, const std::string& script);

// Of a run that is new: an unfinished one with the same settings beside it whose job Slurm does not
// have any more, as a warning; "": there is none. Slurm is asked with `environment`; `how` goes on
// with a run, whose job or folder follows ("NEREUS_RESUME=").
std::string unfinished_beside(const RecipeRun&, const Variables& environment,
                              const std::string& how);

}  // namespace nereus::recipe
