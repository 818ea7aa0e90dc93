// Where a run's figures go: the console, metrics.jsonl, files of kernel times, and whatever else
// shows a run. A sink belongs to one rank; it is notified of what happens and never asked.
//
// Errors: Error{kIo} naming the file.
#pragma once

#include <fstream>
#include <string>
#include <vector>

#include "observe/kernel_times.h"
#include "observe/metrics.h"

namespace nereus {

// What a GPU ran during one step.
struct KernelProfile {
  const std::vector<KernelRun>& runs;
  KernelTimes times;           // of these runs, added up
  double step_seconds = 0;     // on the host's clock
  double flops = 0;            // of the step on this device, causal count
  std::optional<double> peak;  // the device's FLOP/s; none: not known
};

class Sink {
 public:
  virtual ~Sink() = default;
  virtual void step(const StepMetrics&) {}
  virtual void validation(const ValidationMetrics&) {}
  virtual void profile(const KernelProfile&) {}
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

// metrics.jsonl of a run: one JSON object a step with every field in full precision, and
// {"step":.., "validation_loss":..} of a validation. Appended to, a line flushed at a time, so that
// a killed run keeps its lines.
class JsonlSink final : public Sink {
 public:
  explicit JsonlSink(const std::string& path);
  void step(const StepMetrics&) override;
  void validation(const ValidationMetrics&) override;

 private:
  void line(const std::string& text);
  std::string path_;
  std::ofstream out_;
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
