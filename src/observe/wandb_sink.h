// An offline run of Weights & Biases: a folder that `wandb sync` sends and `wandb leet` shows,
//
//   {WANDB_DIR or the dump folder}/wandb/offline-run-20251130_031659-ID/run-ID.wandb
//
// with the configuration, a row a logged step and a validation, the last values as the summary, and
// the lines of the log. A row has its `step`, which is every chart's x axis (define_metric): of
// steps trained again after a kill the later rows count. W&B's own _step only counts rows, over all
// starts of a run, since it must never go back.
//
// Messages (wandb_internal.proto of wandb 0.31; every record has 1 num): 21 HeaderRecord, 17
// RunRecord, 12 MetricRecord, 2 HistoryRecord, 3 SummaryRecord, 13 OutputRawRecord, 18
// RunExitRecord. Values are JSON text.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "observe/sink.h"
#include "observe/wandb_file.h"

namespace protozero {
template <typename>
class basic_pbf_writer;
using pbf_writer = basic_pbf_writer<std::string>;
}  // namespace protozero

namespace nereus {

struct WandbRun {
  std::string folder;  // the wandb folder
  std::string id;      // of all starts of the run
  std::string project, team, name, host;
  std::string config;  // a JSON object: what the configuration has by section
  double time = 0;     // Unix seconds of this start
};

class WandbSink final : public Sink {
 public:
  // Makes the folder of this start, named after `time` in local time, or after the next second
  // whose folder is not there. Throws Error{kIo}.
  explicit WandbSink(const WandbRun&);
  const std::string& folder() const { return folder_; }

  void step(const StepMetrics&) override;
  void experts(int64_t step, double time, const ExpertTable&) override;
  void validation(const ValidationMetrics&) override;
  void event(const RunEvent&) override;
  void log_line(const LogLine&) override;
  const AppendFile* file() const override { return &file_->file(); }

 private:
  using Fields = std::vector<std::pair<std::string, std::string>>;  // name, JSON

  void record(const std::function<void(protozero::pbf_writer&)>& fill);
  void add_run(const WandbRun&);
  void row(int64_t step, double time, Fields fields);

  std::string folder_, id_;
  std::unique_ptr<WandbFile> file_;
  double start_;
  bool ended_ = false;
  int64_t rows_ = 0, records_ = 0;
  std::string record_;  // kept for its memory
};

// What the environment asks of W&B: WANDB_MODE, WANDB_PROJECT, WANDB_TEAM, WANDB_RUN_NAME,
// WANDB_DIR, and whether there is a key to send runs with (WANDB_API_KEY, or a line of ~/.netrc
// for W&B's host: `wandb login`). The key itself is never kept.
struct WandbSettings {
  bool disabled = false, online = false;
  std::string project, team, name, folder;  // folder "": the dump folder
  bool has_key = false;
};
// `variable`: its value, "" where it is not set. Throws Error{kConfig}: no such WANDB_MODE.
WandbSettings wandb_settings(const std::function<std::string(const char*)>& variable);

}  // namespace nereus
