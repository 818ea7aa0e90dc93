// llmb-config_JOBID.yaml in a run's folder: what was submitted, in llmb-run's format.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "recipe/variables.h"

namespace nereus::recipe {

struct RunConfig {
  std::string job_id, launcher_type;
  std::string launch_time;  // 2026-11-28T17:00:00, this machine's time
  std::string framework, gsw_version, fw_version, workload_type;
  bool synthetic_dataset = false;
  std::string model_name, model_size, dtype, gpu_type;
  int64_t scale = 0;  // GPUs
  std::string cluster_name;
  std::string gpus_per_node;            // GPUs of one node, a number
  std::string llmb_install, llmb_repo;  // absolute paths
  std::string slurm_account, slurm_gpu_partition, slurm_cpu_partition;
  std::vector<std::string> images;
  bool profile_enabled = false, proxy = false, strong_scaling = false;
  Variables env_overrides, model_overrides;  // as the task has them: --env and `env`; `params`
};

// Without the values of secrets: archives are passed on.
void write_run_config(const RunConfig& config, const std::string& path);

// What the job history needs of it; none when it cannot be read as one.
std::optional<RunConfig> read_run_config(const std::string& path);

}  // namespace nereus::recipe
