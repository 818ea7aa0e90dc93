// The check of a machine before a run.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "doctor/finding.h"
#include "hub/http.h"

namespace nereus::doctor {

struct Options {
  int gpus = 0;                      // that the node must have; 0: whatever there is
  std::vector<std::string> folders;  // to be written to
  int64_t write_bytes = int64_t{256} << 20;
  std::optional<hub::HubSettings> hub;  // none: not asked
  std::string time_server;              // "": the hub's clock
  bool peers = true;                    // bandwidth between GPUs
  std::string nvml = "libnvidia-ml.so.1";
};

Report examine(const Options&);

}  // namespace nereus::doctor
