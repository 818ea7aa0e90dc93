// What `nereus setup` must know, and the files that it is kept in: a play file (all of it), the
// system configuration in the home folder (what stays from one installation to the next).
//
//   install_path: /lustre/llmb
//   gpu_type: h100
//   node_architecture: x86_64
//   slurm: {account: research, gpu_partition: batch, cpu_partition: cpu, gpu_partition_gres: 8}
//   dataset_shards: 8                        # all, none, or the first so many; ours
//   environment_vars: {HF_HOME: /lustre/hf}  # HF_TOKEN is used for the downloads and kept nowhere
//
// llmb-install's own files are read too; venv_type and install_method have no meaning here.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "recipe/cluster_config.h"
#include "recipe/variables.h"

namespace nereus::recipe {

inline constexpr const char* kWorkload = "pretrain_deepseek-v3-torchtitan";
inline constexpr const char* kGpuTypes[] = {"h100", "h200", "b200", "gb200"};

struct SetupAnswers {
  std::string install_path, account, gpu_partition, cpu_partition, gpu_type, node_architecture;
  std::optional<int> gpus_per_node, cpu_gres;
  std::string dataset_shards = "all";
  Variables environment;
  std::string token;  // HF_TOKEN of the file that was read; written nowhere
};

// Throws Error{kConfig}: an unknown key with the nearest one and its line, all missing ones at
// once, a value that cannot be.
SetupAnswers read_play_file(const std::string& path);
// Without the token; readable by the user alone.
void write_play_file(const SetupAnswers&, const std::string& path);

// ~/.config/llmb/system_config.yaml
std::string system_config_path(const Variables& environment);
SetupAnswers read_system_config(const std::string& path);  // install_path is empty
void write_system_config(const SetupAnswers&, const std::string& path);

// Checks of single values; empty when the value is good, else what is wrong with it.
std::string wrong_gpu_type(const std::string& value);
std::string wrong_shards(const std::string& value);
std::string wrong_gpus(const std::string& value);

// Puts the answers into a configuration: an empty one, or that of an earlier setup, whose other
// settings stay.
void put_answers(ClusterConfig&, const SetupAnswers&, const std::string& repository,
                 const std::string& cluster_name);
// And back: the answers that a configuration was made of, apart from dataset_shards.
SetupAnswers answers_of(const ClusterConfig&);
std::string architecture();  // of this machine: x86_64, aarch64

}  // namespace nereus::recipe
