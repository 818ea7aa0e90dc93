// A rank's sinks together. They get what is told here, each record with the time of day, and the
// lines that the rank writes to the log; a warning among those is an event as well.
//
// A sink that cannot write (Error{kIo}) is used no more, which one warning says, and the run goes
// on. Where a file system is full that holds for all sinks with a file on it at once.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "base/log_listener.h"
#include "observe/sink.h"
#include "observe/wall_clock.h"

namespace nereus {

class SinkGroup {
 public:
  SinkGroup();   // keeps this rank's lines from here on, for the sinks that will be added
  ~SinkGroup();  // hands on the last of them
  SinkGroup(const SinkGroup&) = delete;
  SinkGroup& operator=(const SinkGroup&) = delete;

  void add(std::unique_ptr<Sink>);
  bool empty() const { return sinks_.empty(); }

  void progress(int64_t step) {
    for (const auto& sink : sinks_) sink->progress(step);
  }
  void step(StepMetrics);
  void experts(int64_t step, const ExpertTable&);
  void validation(ValidationMetrics);
  void event(RunEvent);
  void profile(const KernelProfile&);

 private:
  template <class Tell>
  void tell(const Tell&);
  void stop_failed(const std::vector<size_t>& failed, const std::string& why);
  void hand_on_lines();

  static constexpr size_t kLines = 10000;  // that wait to be handed on
  WallClock clock_;
  int64_t step_ = 0;  // the last one told of
  std::vector<std::unique_ptr<Sink>> sinks_;
  std::mutex mutex_;  // of lines_
  std::vector<LogLine> lines_;
  log::Listener listener_;  // last: its calls use what is above
};

}  // namespace nereus
