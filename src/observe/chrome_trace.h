// A recording as a file in Chrome's trace format, for ui.perfetto.dev and chrome://tracing, and the
// only place that knows how one is laid out (docs/profiling.md has it for readers).
//
//   {"displayTimeUnit": "ms", "otherData": {facts}, "traceEvents": [...]}
//
// Two processes: what threads of the host did (pid 2 rank; a row a thread), and what a GPU ran (pid
// 2 rank + 1; a row a stream, more where kernels of a stream overlap). Times are in microseconds,
// from the first step that the trace covers. Categories are PyTorch's where it has one ("kernel",
// "gpu_memcpy", "gpu_memset", and "ac2g" for the arrow from where the host asked for a kernel to
// where it ran), so that programs that read its traces read these. Arrows "microbatch" lead from
// each action of a microbatch to its next one.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "device/trace.h"
#include "observe/kernel_times.h"

namespace nereus {

// What a trace is of, and what its readers measure it by. Counts are a step's, of one device.
struct TraceFacts {
  int rank = 0, ranks = 1;
  std::string device;
  int64_t first_step = 0, last_step = 0;
  double step_seconds = 0;  // mean of these steps, on the host's clock
  double gemm_flops = 0, attention_flops = 0;
  std::optional<double> peak_flops, peak_bandwidth;  // a second; none: not known
  std::string layout;
};

// Of what began at `from` (of the steady clock, in ns) or later.
std::string chrome_trace(const TraceFacts&, const TraceRecording&, const std::vector<KernelRun>&,
                         int64_t from);

// A longer trace is compressed.
inline constexpr size_t kLongestPlainTrace = size_t{16} << 20;  // bytes

// Writes `path`, or `path`.gz when the trace is longer than that; whole or not at all. Returns the
// name. Throws Error{kIo}.
std::string write_trace(const std::string& path, const std::string& trace);

// The text of a file that may be compressed. Throws Error{kConfig}.
std::string read_trace_text(const std::string& path);

}  // namespace nereus
