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
  std::optional<int64_t> restart;  // of log-..._JOB_RESTART.out; none for slurm-JOB.out
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
// the mean over steps 35 to 44, as llmb-run takes it. A line stands for all steps since the line
// before: with log_freq 10, step 38 has the values of step 40's line. A finished run of fewer than
// 44 steps gives the mean over the steps after its first line.
struct RunSpeed {
  std::string status;  // success, short, incomplete, invalid_grad_norm, no_data, no_log
  std::optional<double> step_seconds = {}, tflops_per_gpu = {}, tokens_per_second_per_gpu = {};
  int64_t last_step = 0;
  bool finished = false;  // the log has "Training completed"
};
RunSpeed parse_log(std::istream& log);
RunSpeed parse_log(const std::string& folder, int64_t job);  // the active one

// The last lines of a file, without a newline at the end.
std::string tail(const std::string& path, int64_t lines);

}  // namespace nereus::recipe
