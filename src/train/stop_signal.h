// SIGINT, SIGTERM and SIGUSR1 ask a run to finish its step and stop. While one lives, the first
// such signal is remembered; a second one has the system's default effect and ends the process at
// once.
#pragma once

namespace nereus {

class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  static int received();                // the signal's number, or 0
  static const char* name(int signal);  // "SIGINT"
};

}  // namespace nereus
