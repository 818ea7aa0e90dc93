// The log of a run: which file, and how fast it says that the run was.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

namespace nereus::recipe {

struct RunLog {
  std::string path;
  std::string errors = {};              // the .err beside it; "": there is none
  std::optional<int64_t> restart = {};  // of log-..._JOB_RESTART.out; none for slurm-JOB.out
};

// A job's logs, the active one (of the last restart) last; slurm-JOB.out where there is no other.
// Throws Error{kConfig} when the folder is not there.
std::vector<RunLog> find_logs(const std::string& folder, int64_t job);

// Of the step lines of Nereus and of TorchTitan (coloured or not; of one rank or of all, with or
// without a rank's label):
//
//   [titan] 2025-10-02 20:23:53,470 - root - INFO - step: 40  loss: ...  grad_norm: ...
//     memory: ...  tps: 1,234  tflops: 123.45  mfu: 12.34%
//
// the mean over steps 35 to 44. A line stands for all steps since the line before: with log_freq
// 10, step 38 has the values of step 40's line. A finished run of fewer than 44 steps gives the
// mean over the steps after its first line. Rates are means over time, so that tokens/s times
// s/iteration is a step's tokens (llmb-run takes the mean of the lines' rates, which is higher).
struct RunSpeed {
  std::string status;  // success, short, incomplete, invalid_grad_norm, no_data, no_log
  std::optional<double> step_seconds = {}, tflops_per_gpu = {}, tokens_per_second_per_gpu = {};
  int64_t last_step = 0;
  int64_t steps = 0;      // of the whole run, as its log says; 0: it does not say
  bool finished = false;  // the log has "Training completed"
};
RunSpeed parse_log(std::istream& log);
RunSpeed parse_log(const std::string& folder, int64_t job);  // the active one

// The job of log-..._JOB_RESTART.out or llmb-config_JOB.yaml; 0 of other names.
int64_t job_of_log(const std::string& name);
int64_t job_of_config(const std::string& name);

// The last lines of a file, without a newline at the end.
std::string tail(const std::string& path, int64_t lines);

}  // namespace nereus::recipe
