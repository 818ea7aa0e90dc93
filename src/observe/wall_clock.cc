#include "observe/wall_clock.h"

#include <algorithm>
#include <chrono>

namespace nereus {
namespace {

template <class Clock>
double seconds() {
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

}  // namespace

WallClock::WallClock()
    : WallClock(seconds<std::chrono::system_clock>, seconds<std::chrono::steady_clock>) {}

double WallClock::now() {
  const std::lock_guard lock(mutex_);
  const double system = system_(), steady = steady_();
  last_ = last_ == 0 || system >= last_ ? system : last_ + std::max(0.0, steady - last_steady_);
  last_steady_ = steady;
  return last_;
}

}  // namespace nereus
