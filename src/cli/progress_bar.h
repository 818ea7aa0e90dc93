// How far a command is that moves bytes: a bar with the rate and the time left.
//
//   [############------------------] 41 %   12.3 GB of 30.0 GB, 1.1 GB/s, 0:16 left
//
// On a terminal it is drawn again and again on one line, elsewhere it is a line every five seconds
// and one at the end.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

namespace nereus {

class ProgressBar {
 public:
  explicit ProgressBar(std::FILE* out);
  ~ProgressBar();  // ends the line
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // `done` of `all` bytes, of which `found` were there before this began, which the rate leaves
  // out. `more` stands behind.
  void show(int64_t done, int64_t all, int64_t found, const std::string& more);

 private:
  using Clock = std::chrono::steady_clock;
  std::FILE* out_;
  bool terminal_;
  bool drawn_ = false;
  size_t width_ = 0;  // of what stands on the line
  Clock::time_point begin_ = Clock::now(), last_ = begin_;
};

// The text alone. `seconds` went by for done - found bytes.
std::string progress_text(int64_t done, int64_t all, int64_t found, double seconds);

}  // namespace nereus
