// Checks of the host: limits, shared memory, folders, InfiniBand.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "doctor/finding.h"

namespace nereus::doctor {

// Hard and soft limits; -1: unlimited.
struct Limits {
  int64_t memlock = -1;                 // bytes, soft
  int64_t files = -1, files_hard = -1;  // open files
  int64_t stack = -1;                   // bytes, soft
  int64_t processes = -1;               // and threads, soft
};
Limits read_limits();
// `rdma`: network cards register memory, which must be locked.
std::vector<Finding> judge_limits(const Limits&, bool rdma);

// `gpus`: of this node; several of them talk through shared memory.
Finding check_shared_memory(const std::string& path, int gpus);

// Writes `bytes` into a file of its own, reads the clock, removes the file.
std::vector<Finding> check_folder(const std::string& path, int64_t bytes);

struct NetworkPort {
  std::string name;   // "mlx5_0/1"
  std::string state;  // "ACTIVE"
  std::string layer;  // "InfiniBand", "Ethernet"
  double gigabits = 0;
  uint64_t errors = 0;  // links that went down, and failed to recover
};
std::vector<NetworkPort> read_ports(const std::string& root = "/sys/class/infiniband");
std::vector<Finding> judge_ports(const std::vector<NetworkPort>&);

}  // namespace nereus::doctor
