// How long a GPU's kernels ran in a stretch of time, by CUPTI's activity records: where a step's
// time went. CUPTI comes with the CUDA toolkit and is opened when first needed. The same account
// is made of what host threads did, where there is no GPU (observe/trace_account.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "device/device.h"

namespace nereus {

enum class KernelClass : uint8_t { gemm, attention, memory_bound, copy, communication };
KernelClass kernel_class(const std::string& name);

// A kernel, copy or fill as it ran. Times are of the host's steady clock, in ns.
struct KernelRun {
  std::string name;  // readable; "copy", "fill"
  uint64_t begin = 0, end = 0;
  uint32_t stream = 0;
  uint64_t launched = 0;  // when the host asked for it; 0: not known
  int64_t thread = 0;     // which did: the system's number
  int64_t bytes = 0;      // of a copy or fill
};

struct KernelTimes {
  struct Kernel {
    std::string name;
    int64_t launches = 0;
    double seconds = 0;
  };
  std::vector<Kernel> kernels;  // copies and fills by the runtime included; longest first
  double gemms = 0;             // seconds in dense and grouped GEMMs
  double attention = 0;
  double memory_bound = 0;  // all other kernels
  double copies = 0;
  double communication = 0;  // collectives, exchanges of experts' rows, waiting for ranks in them
  double exposed = 0;        // of that, with nothing else running
  double hidden = 0;         // with something else running; each moment is counted once in both
  double span = 0;           // from the first kernel's start to the last one's end
  double gaps = 0;           // of the span, with nothing running
};

KernelTimes add_up(std::vector<KernelRun>,
                   KernelClass (*class_of)(const std::string&) = kernel_class);

// Records what one GPU ran between start() and stop(). One at a time of a GPU. While either call
// runs, no kernel of this process may wait for another GPU.
class KernelRecorder {
 public:
  // False (and a warning) when this build or machine has no CUPTI.
  bool start(Stream&);
  std::vector<KernelRun> stop(Stream&);
};

// "Speed of light: ..." for the log: a step's time compared with that of its arithmetic at the
// device's peak (flops, and none for an unknown device), and where it went.
std::string speed_of_light(const KernelTimes&, double step_seconds, double flops,
                           std::optional<double> peak);

// name, launches, microseconds: as CSV, longest first.
std::string kernel_table(const KernelTimes&);

}  // namespace nereus
