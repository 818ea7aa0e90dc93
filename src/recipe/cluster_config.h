// $LLMB_INSTALL/cluster_config.yaml: what is installed where, and how jobs reach Slurm. `nereus
// setup` writes it, `nereus submit` and `nereus jobs` read it; llmb-run's own files are read too.
//
//   schema_version: 2
//   llmb_repo: /opt/nereus
//   llmb_install: /lustre/llmb
//   gpu_type: h100
//   gpu_memory_gib: {h100: 93.1}              # of cards with more or less than the type's usual
//   install: {node_architecture: x86_64}
//   environment: {HF_HOME: /lustre/hf}          # for every workload
//   slurm:
//     account: research                         # for both
//     gpu: {partition: batch, gres: 8}
//     cpu: {partition: cpu, gres: null}         # null takes away what stands above
//   workloads:
//     installed: [pretrain_deepseek-v3-torchtitan]
//     config: {pretrain_deepseek-v3-torchtitan: {venv_path: ..., environment: {A: b}}}
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "recipe/variables.h"

namespace nereus::recipe {

struct ClusterConfig {
  // Slurm's settings by the file's names ("partition", "gres", "qos", "sbatch_timelimit"); without
  // a value: unset.
  using SlurmKeys = std::map<std::string, std::optional<std::string>>;
  struct Workload {
    std::string venv_path, venv_type;
    Variables environment;
  };

  std::string llmb_repo, llmb_install, gpu_type;
  std::string cluster_name;  // "": not given
  std::string node_architecture = "x86_64";
  std::map<std::string, double> gpu_memory_gib;  // what CUDA offers, by type in small letters
  Variables environment;
  SlurmKeys slurm, gpu;          // for both, and for jobs on GPUs
  std::optional<SlurmKeys> cpu;  // none: as for GPUs
  std::vector<std::string> installed;
  std::map<std::string, Workload> workloads;
  // Keys that are not known, as YAML's text of a map, by where they stand ("" for the file itself,
  // "install", "workloads", "workloads.config.NAME").
  std::map<std::string, std::string> unknown;
  std::string hub_token;  // one that stands somewhere in the file; not written

  // What Slurm's commands read of the settings above: SBATCH_PARTITION, SBATCH_GPUS_PER_NODE (from
  // "gres"), ...
  Variables gpu_variables() const;
  Variables cpu_variables() const;
};

// Schema 2, and schema 1 (a `launcher` section, gpu_partition and the like). Throws Error{kConfig}
// with the file's line.
ClusterConfig read_cluster_config(const std::string& path);

// A token of the hub, which is taken from the environment and written to no file.
bool is_hub_token(const std::string& variable);

// Schema 2, replaced in one step, without tokens of the hub wherever they were. Readable by the
// owner only when it has other secrets. Throws Error{kConfig}.
void write_cluster_config(const ClusterConfig& config, const std::string& path);

// The file that counts: ./cluster_config.yaml, else the one in `install` ($LLMB_INSTALL). Throws
// Error{kConfig} when there is neither.
std::string find_cluster_config(const std::string& install);

}  // namespace nereus::recipe
