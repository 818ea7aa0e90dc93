// The time of day for records of a run: Unix seconds that never go back, however the system's clock
// is set while the run goes on. Where that jumps back, time goes on at the steady clock's pace.
#pragma once

#include <functional>
#include <mutex>

namespace nereus {

class WallClock {
 public:
  using Seconds = std::function<double()>;
  WallClock();                               // the system's clock, and the steady one
  WallClock(Seconds system, Seconds steady)  // for tests
      : system_(std::move(system)), steady_(std::move(steady)) {}

  double now();  // thread-safe

 private:
  Seconds system_, steady_;
  std::mutex mutex_;
  double last_ = 0, last_steady_ = 0;
};

}  // namespace nereus
