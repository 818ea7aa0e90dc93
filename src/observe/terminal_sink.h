// The log on a terminal: TorchTitan's step line stays in place under a bar with the time left;
// all other lines go by above it.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <string>

#include "base/log_status.h"
#include "observe/sink.h"

namespace nereus {

class TerminalSink final : public Sink {
 public:
  TerminalSink(int64_t steps, bool color) : steps_(steps), color_(color), console_(color) {}
  void progress(int64_t step) override;
  void step(const StepMetrics&) override;
  void validation(const ValidationMetrics& m) override { console_.validation(m); }
  void event(const RunEvent&) override;
  void profile(const KernelProfile& p) override { console_.profile(p); }

 private:
  using Clock = std::chrono::steady_clock;
  int64_t steps_;
  bool color_, ended_ = false;
  ConsoleSink console_;
  log::Status status_;
  std::deque<Clock::time_point> ends_;  // of the last steps
  Clock::time_point drawn_{};
};

// "[############------------------]  41 %  step 82 of 200, 1.20 s a step, 2:22 left" in at most
// `columns` characters; what fits least goes first. `seconds`: of a step; 0: not known yet.
std::string progress_bar(int64_t step, int64_t steps, double seconds, int columns);

}  // namespace nereus
