#include "train/step_profiler.h"

namespace nereus {

StepProfiler::StepProfiler(Stream& stream, World& world, bool records, RunReport& report)
    : stream_(stream), world_(world), records_(records), report_(report) {}

bool StepProfiler::should_profile(int64_t step, int64_t last_step) const {
  constexpr int64_t kWarm = 5;
  return stream_.on_gpu() && step == last_step && step > kWarm;
}

// What stops all GPUs of this process must not find one that waits for another.
void StepProfiler::with_idle_gpus(FunctionRef<void()> work) {
  stream_.synchronize();
  world_.meet_on_host();
  work();
  world_.meet_on_host();
}

void StepProfiler::start() {
  with_idle_gpus([&] { recording_ = records_ && recorder_.start(stream_); });
  begin_ = std::chrono::steady_clock::now();
}

void StepProfiler::stop() {
  stream_.synchronize();  // with the update, which the step's result does not wait for
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin_;
  std::vector<KernelRun> runs;
  with_idle_gpus([&] {
    if (recording_) runs = recorder_.stop(stream_);
  });
  if (recording_) report_.profile(runs, seconds.count());
  recording_ = false;
}

}  // namespace nereus
