// Where the time of a trace went, by class of work: what `nereus profile` prints. It reads the
// traces of observe/chrome_trace.h and those that PyTorch's profiler writes.
//
// Where a GPU was recorded its kernels count; elsewhere the ops and collectives of the rank's own
// thread, which waits for those that it calls: all communication is exposed there.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "observe/kernel_times.h"

namespace nereus {

struct TraceAccount {
  std::string path, device, layout;
  int rank = 0;
  int64_t first_step = 0, last_step = 0, steps = 1;
  double step_seconds = 0;  // by the host's clock; 0: not known, the span stands for it
  bool of_gpu = false;
  KernelTimes times;                                 // of all steps
  double memory_bytes = 0, communication_bytes = 0;  // of the tensors of such ops, of all steps
  // Of a step on a device; 0 or none: not known.
  double gemm_flops = 0, attention_flops = 0;
  std::optional<double> peak_flops, peak_bandwidth;
};

// Throws Error{kConfig} for what is no trace, or one without work.
TraceAccount account_of_trace(const std::string& path);

// One trace, or two side by side; `top` kernels.
std::string account_text(std::span<const TraceAccount>, int top);
std::string account_json(std::span<const TraceAccount>, int top);

}  // namespace nereus
