// Ends a process whose world has failed and which does not end by itself. What a rank waits for may
// never come back when another has died (a GPU on which kernels wait for that rank, a driver, a
// file system), and no exception and no destructor gets a thread out of it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "base/error.h"
#include "control/world.h"

namespace nereus {

// How long a process has from the world's failure until all that was made of the world is gone.
inline constexpr std::chrono::milliseconds kEndTime{1000};

class EndGuard {
 public:
  // From here on: a guard that still lives `time` after the world's failure writes the rank's last
  // words to standard error, as main() would, and ends the process with their exit code.
  EndGuard(World&, std::chrono::milliseconds time);
  ~EndGuard();
  EndGuard(const EndGuard&) = delete;
  EndGuard& operator=(const EndGuard&) = delete;

  // The last words are this rank's own error; without it, the world's (Fault::kComm).
  void ends_with(const Error&);

 private:
  void watch();

  World& world_;
  const std::chrono::milliseconds time_;
  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  bool over_ = false;
  std::string words_;
  int code_ = 0;
  std::thread thread_;
};

}  // namespace nereus
