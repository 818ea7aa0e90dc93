// How many GPUs a node has: what is said of it in variables and in Slurm's words.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "recipe/variables.h"

namespace nereus::recipe {

// Where nothing says otherwise: 4 on GB200 and GB300, else 8.
int64_t default_gpus_per_node(const std::string& gpu_type);

// Type and number of the GPUs in Slurm's gres: "mps:100,gpu:h100:8(S:0-1)"; 0 without any.
std::pair<std::string, int> gpus_of(const std::string& gres);

// The number alone of what Slurm is asked for: 4 of "4", "h100:4" and "gpu:h100:4"; none without
// one.
std::optional<int> gpus_of_gres(const std::string& asked);

// GPUS_PER_NODE; else what Slurm was asked for: SLURM_GPUS_PER_NODE (which sbatch sets in a job),
// SBATCH_GPUS_PER_NODE ("8", "h100:8", "gpu:h100:8"), SBATCH_GRES; else the default. Throws
// Error{kConfig} for a GPUS_PER_NODE that is no number or less than `least`.
int64_t gpus_per_node(const Variables& variables, const std::string& gpu_type, int64_t least = 1);

}  // namespace nereus::recipe
