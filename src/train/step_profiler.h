// Records what the GPU runs during the last step, whose account ends the log. Recording slows a
// step a little, so that no other step is recorded, and none of the first ones, which warm up.
#pragma once

#include "control/world.h"
#include "observe/kernel_times.h"
#include "train/run_report.h"

namespace nereus {

class StepProfiler {
 public:
  // `records`: this rank's kernels are recorded. The references must outlive the profiler.
  StepProfiler(Stream&, World&, bool records, RunReport&);

  bool should_profile(int64_t step, int64_t last_step) const;
  // Collectives around a step: all ranks for which should_profile() is true call both.
  void start();
  void stop();  // waits for the step; its account goes to the report's sinks

 private:
  void with_idle_gpus(FunctionRef<void()> work);

  Stream& stream_;
  World& world_;
  bool records_, recording_ = false;
  RunReport& report_;
  KernelRecorder recorder_;
  std::chrono::steady_clock::time_point begin_;
};

}  // namespace nereus
