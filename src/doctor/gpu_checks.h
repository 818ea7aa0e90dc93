// Judges what the driver says of the GPUs. Pure functions of the facts.
#pragma once

#include <vector>

#include "doctor/finding.h"
#include "doctor/nvml.h"

namespace nereus::doctor {

// `expected`: GPUs that the node must have; 0: whatever there is.
std::vector<Finding> judge_gpus(const GpuInventory&, int expected);

// Bytes a second from GPU i to GPU j, 0 on the diagonal; a negative number where the pair has no
// direct way.
Finding judge_peers(const std::vector<std::vector<double>>& bandwidth);

}  // namespace nereus::doctor
