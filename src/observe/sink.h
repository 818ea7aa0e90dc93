// Where a run's figures go: the console, files of kernel times, and whatever else shows a run
// (observe/jsonl_sinks.h). A sink belongs to one rank; it is notified of what happens and never
// asked.
//
// Errors: Error{kIo} naming the file. A sink that threw is not used again; the run goes on.
#pragma once

#include <string>
#include <vector>

#include "base/append_file.h"
#include "observe/expert_table.h"
#include "observe/kernel_times.h"
#include "observe/metrics.h"
#include "observe/run_event.h"

namespace nereus {

// What a GPU ran during one step.
struct KernelProfile {
  KernelTimes times;           // of these runs, added up
  double step_seconds = 0;     // on the host's clock
  double flops = 0;            // of the step on this device, causal count
  std::optional<double> peak;  // the device's FLOP/s; none: not known
  std::string trace = {};      // of the step, with what the host did (observe/chrome_trace.h)
};

class Sink {
 public:
  virtual ~Sink() = default;
  virtual void progress(int64_t /*step*/) {}  // it is done; logged or not
  virtual void step(const StepMetrics&) {}
  // Of the step before it, now and then (metrics.histogram_freq).
  virtual void experts(int64_t /*step*/, double /*time*/, const ExpertTable&) {}
  virtual void validation(const ValidationMetrics&) {}
  virtual void event(const RunEvent&) {}
  virtual void log_line(const LogLine&) {}
  virtual void profile(const KernelProfile&) {}
  // What it writes as the run goes; null: nothing of that kind.
  virtual const AppendFile* file() const { return nullptr; }
};

// TorchTitan's lines in the log.
class ConsoleSink final : public Sink {
 public:
  explicit ConsoleSink(bool color) : color_(color) {}
  void step(const StepMetrics&) override;
  void validation(const ValidationMetrics&) override;
  void profile(const KernelProfile&) override;

 private:
  bool color_;
};

// kernels.csv and kernels_trace.json in a folder, each whole or absent.
class KernelFilesSink final : public Sink {
 public:
  explicit KernelFilesSink(std::string folder) : folder_(std::move(folder)) {}
  void profile(const KernelProfile&) override;

 private:
  std::string folder_;
};

}  // namespace nereus
