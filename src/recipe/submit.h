// From a task to a job in Slurm's queue: the run's folder, sbatch's arguments and variables, and
// the files that say what was submitted. What llmb-run calls a configured_sbatch launcher.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "recipe/recipe_run.h"
#include "recipe/run_config.h"
#include "recipe/run_facts.h"
#include "recipe/tasks.h"

namespace nereus::recipe {

// --nodelist and its like, and --slurm-arg.
struct SlurmOptions {
  std::string nodelist, exclude, reservation;
  std::optional<int64_t> segment, nice;
  std::vector<std::string> more;  // "key=value" or "flag"

  bool empty() const;
  // As sbatch takes them. Throws Error{kConfig} for a `more` that is not of that form, that has an
  // option of its own, or that is there twice.
  std::vector<std::string> words() const;
};

struct SubmittedJob {
  int64_t id = 0;
  std::string folder;  // the run's
  std::string config;  // its llmb-config_*.yaml
  std::string launch_time;
  std::vector<std::string> warnings;  // sbatch's own; why the file could not be written
};

class Submitter {
 public:
  // `environment`: this process's; `program`: this program, which jobs run; `arguments` go to
  // `nereus train` last.
  Submitter(const ClusterConfig& config, const Workloads& workloads, Variables environment,
            std::string program, SlurmOptions options, std::vector<std::string> arguments);

  struct Checked {
    std::vector<std::string> facts;  // of the run: RunFacts::lines
    std::vector<std::string> warnings;
  };
  // Throws Error{kConfig} for what could never run: ADDITIONAL_SLURM_PARAMS together with options
  // of Slurm's, degrees that do not multiply, and what hold() refuses.
  Checked check(const Task& task, Purpose purpose = Purpose::queue) const;

  // `sbatch` and its arguments for a run in `folder`, to start when `after`, a job's number, has
  // ended however it did ("": at once).
  std::vector<std::string> command(const Task& task, const std::string& folder,
                                   const std::string& after = "") const;
  // The variables that differ from this process's own.
  Variables variables(const Task& task, const std::string& folder) const;
  // Whether the job profiles: `profile` of the task, or ENABLE_PROFILE of any of the variables.
  bool profiles(const Task& task) const;
  // The folder of a run that starts at `seconds` since 1970.
  std::string folder(const Task& task, int64_t seconds) const;

  // Makes the folder, calls sbatch, writes llmb-config_JOBID.yaml. Throws Error: what sbatch said
  // as it is; then the folder is gone again, but for a sbatch that did not answer: it may have
  // submitted the job.
  SubmittedJob submit(const Task& task) const { return submit(task, {}); }
  // A job that goes on with a run.
  struct Place {
    std::string folder = {};  // the run's; "": a new one is made
    int64_t after = 0;        // the job that must have ended; 0: none
  };
  SubmittedJob submit(const Task& task, const Place&) const;

  // Asked of runs of the recipe; null: they are not held against it.
  RunCheck run_check;
  // Runs that do not fit are submitted all the same: launch.sh gets --force.
  bool force = false;
  // They go on with runs: that there are unfinished ones is nothing to warn of.
  bool resumes = false;

  // The clock for folders' names, how to wait a second, and for how long sbatch is waited for;
  // tests set their own.
  std::function<int64_t()> now;
  std::function<void()> wait;
  int sbatch_seconds = 120;

 private:
  std::string make_folder(const Task& task) const;
  RunConfig run_config(const Task& task, const std::string& job, const std::string& time) const;
  std::optional<RecipeRun> recipe_run(const Task& task) const;
  Variables job_environment(const Task& task, const std::string& folder) const;
  const std::string& cluster_name() const;
  const Workload& workload(const Task& task) const { return workloads_.at(task.workload); }

  const ClusterConfig& config_;
  const Workloads& workloads_;
  Variables environment_;
  std::string program_;
  SlurmOptions options_;
  std::vector<std::string> arguments_;
  mutable std::optional<std::string> cluster_name_;  // Slurm is asked once, for the first job
};

// "llmb_version" of the repository's release.yaml, or this program's version.
std::string release_version(const std::string& repository, const std::string& otherwise);

// 2026-11-28T17:00:00, this machine's time.
std::string local_time(int64_t seconds);

}  // namespace nereus::recipe
