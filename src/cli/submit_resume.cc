#include "cli/submit_resume.h"

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "base/check.h"
#include "base/files.h"
#include "recipe/command_output.h"
#include "recipe/run_config.h"
#include "recipe/run_record.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;

// The part of a path behind "workloads".
std::string workload_of(const std::string& folder) {
  const fs::path path = folder;
  for (auto it = path.begin(); it != path.end(); ++it)
    if (*it == "workloads" && std::next(it) != path.end()) return std::next(it)->string();
  return "";
}

// Variables that `nereus submit` gives a job by itself.
bool is_given(const std::string& key) {
  constexpr const char* kGiven[] = {"GPU_TYPE", "JOB_TOTAL_GPUS", "DTYPE", "GPUS_PER_NODE"};
  return key.starts_with("LLMB_") || key.starts_with("SBATCH_") ||
         std::find(std::begin(kGiven), std::end(kGiven), key) != std::end(kGiven);
}

// The last of these jobs that Slurm has.
int64_t queued(const std::vector<std::string>& jobs, const recipe::Variables& environment) {
  int64_t last = 0;
  for (const std::string& job : jobs) {
    const auto said =
        recipe::run_command({"squeue", "--noheader", "--jobs=" + job, "--format=%A"}, environment);
    if (said.code == 0 && !said.out.empty())
      last = std::max<int64_t>(last, std::strtoll(job.c_str(), nullptr, 10));
  }
  return last;
}

}  // namespace

ResumedRun resumed_run(const std::string& asked, const recipe::ClusterConfig& config,
                       const recipe::Variables& environment) {
  ResumedRun out;
  out.folder = recipe::find_run_folder(asked, config.llmb_install);
  recipe::Task& t = out.task;
  t.workload = workload_of(out.folder);
  NEREUS_CHECK(kConfig, !t.workload.empty(),
               "--resume {}: {} is in no workload's experiments. NEREUS_RESUME={} sbatch launch.sh "
               "goes on with a run anywhere.",
               asked, out.folder, out.folder);
  const std::optional<recipe::RunRecord> record = recipe::read_record(out.folder);
  NEREUS_CHECK(
      kConfig, record.has_value(),
      "--resume {}: {} has no {}: the run has not started, or an earlier version of this "
      "program ran it. NEREUS_RESUME={} sbatch launch.sh, with its variables, goes on with "
      "such a run.",
      asked, out.folder, recipe::kRecordFile, out.folder);

  std::vector<std::string> jobs{record->job};
  t.size = "671b";
  t.dtype = "bf16";
  std::error_code ignored;
  for (const fs::directory_entry& e : entries_of(out.folder, ignored)) {
    const std::string name = e.path().filename().string();
    if (!name.starts_with("llmb-config_")) continue;
    const std::optional<recipe::RunConfig> c = recipe::read_run_config(e.path().string());
    if (!c) continue;
    jobs.push_back(c->job_id);
    t.size = c->model_size;
    t.dtype = c->dtype;
    t.scale = c->scale;
    t.profile = c->profile_enabled;
    t.proxy = c->proxy;
    t.environment = c->env_overrides;
    t.parameters = c->model_overrides;
  }
  for (auto it = t.environment.begin(); it != t.environment.end();) {
    const bool secret = recipe::is_secret(it->first);  // its value is not in the file
    if (secret && !environment.contains(it->first))
      out.warnings.push_back(fmt::format(
          "{} was given to the run with --env and is written nowhere: give it again.", it->first));
    it = secret ? t.environment.erase(it) : std::next(it);
  }
  for (const auto& [key, value] : record->variables) {
    if (key == "JOB_TOTAL_GPUS" && t.scale == 0) t.scale = std::strtoll(value.c_str(), nullptr, 10);
    if (key == "DTYPE") t.dtype = value;
    if (!is_given(key) && !environment.contains(key)) t.environment.emplace(key, value);
  }
  out.arguments = record->arguments;
  out.queued = queued(jobs, environment);
  const std::string checkpoints = out.folder + "/outputs/" + record->checkpoints;
  NEREUS_CHECK(kConfig, out.queued > 0 || recipe::newest_checkpoint(checkpoints) >= 0,
               "--resume {}: {} has no checkpoint to go on from. Submit the run anew, with -- "
               "--checkpoint.enable.",
               asked, checkpoints);
  return out;
}

}  // namespace nereus
