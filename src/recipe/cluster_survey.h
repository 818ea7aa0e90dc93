// What Slurm on this machine says of the cluster: defaults for `nereus setup`. What cannot be found
// is a note, not an error: the user knows it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "recipe/variables.h"

namespace nereus::recipe {

struct Partition {
  std::string name;
  bool is_default = false;
  int nodes = 0;
  std::optional<int> gpus = {};  // a node; of most nodes where they differ
  std::string gpu_type = {};     // as Slurm names it; "" when it does not
};

struct ClusterSurvey {
  std::string cluster_name;
  std::vector<std::string> accounts;
  std::vector<Partition> partitions;
  std::vector<std::string> notes;

  const Partition* partition(const std::string& name) const;  // or nullptr
};

ClusterSurvey survey_cluster(const Variables& environment);

// `sinfo -o "%P|%G|%D"`: a line for each kind of nodes of each partition.
std::vector<Partition> parse_partitions(const std::string& text);

// ClusterName of `scontrol show config`, "" without.
std::string parse_cluster_name(const std::string& text);

// "h100" of "nvidia_h100_80gb_hbm3"; "" for a GPU that the recipe has not.
std::string recipe_gpu_type(const std::string& slurm_type);

}  // namespace nereus::recipe
