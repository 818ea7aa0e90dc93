// SIGINT, SIGTERM and SIGUSR1 ask a run to finish its step and stop. From when the first of these
// objects is made until the last is gone (ranks that are threads have one each), such a signal is
// remembered. A second SIGINT ends the process at once. A second SIGTERM does not: at a job's
// time limit Slurm sends two of them within milliseconds, and SIGKILL when its patience ends. Nor
// does one that comes later, to a rank that has stopped because another one was told to.
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
