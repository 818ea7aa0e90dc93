// How long a GPU's kernels ran in a stretch of time, by CUPTI's activity records: where a step's
// time went. CUPTI comes with the CUDA toolkit and is opened when first needed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "device/device.h"

namespace nereus {

struct KernelTimes {
  struct Kernel {
    std::string name;
    int64_t launches = 0;
    double seconds = 0;
  };
  std::vector<Kernel> kernels;  // copies and fills by the runtime included; longest first
  double products = 0;          // seconds in dense and grouped products
  double attention = 0;
  double memory_bound = 0;  // all other kernels
  double copies = 0;
  double span = 0;  // from the first kernel's start to the last one's end
  double gaps = 0;  // of the span, with nothing running
};

// Records between start() and stop(). One at a time in a process.
class KernelRecorder {
 public:
  // False (and a warning) when this build or machine has no CUPTI.
  bool start(Stream&);
  KernelTimes stop(Stream&);
};

// "Speed of light: ..." for the log: a step's time beside that of its arithmetic at the device's
// peak (flops, and none for an unknown device), and where it went.
std::string speed_of_light(const KernelTimes&, double step_seconds, double flops,
                           std::optional<double> peak);

// name, launches, microseconds: as CSV, longest first.
std::string kernel_table(const KernelTimes&);

}  // namespace nereus
