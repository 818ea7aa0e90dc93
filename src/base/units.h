// Sizes and times as numbers for messages.
#pragma once

#include <chrono>

namespace nereus {

inline constexpr double kMiB = 1 << 20, kGiB = 1 << 30;  // bytes

inline double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace nereus
