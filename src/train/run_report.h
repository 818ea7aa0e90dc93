// What a run reports to its users: the lines at its start, the figures of logged steps and
// validations, which go to all sinks, and the lines at its end.
#pragma once

#include <chrono>
#include <span>
#include <string>
#include <vector>

#include "data/row_source.h"
#include "engine/memory_table.h"
#include "engine/run_layout.h"
#include "engine/step_runner.h"
#include "observe/chrome_trace.h"
#include "observe/sink_group.h"
#include "train/run_folder.h"
#include "train/run_sinks.h"

namespace nereus {

class RunReport {
 public:
  // All must outlive the report.
  RunReport(const JobConfig&, const ModelArgs&, const RunLayout&, Stream&);

  // On the rank that answers Prometheus, before any rank begins: opens the port where one is asked
  // for. Throws Error{kConfig}.
  void open_port();
  // From here on figures go to this rank's sinks: the console, and files in `folder` on the rank
  // that writes (null elsewhere).
  void open(const RunIdentity&, const RunFolder* folder);

  // Before the first step. `library` moves tensors between ranks, "" for one rank; `seconds` is how
  // long the set-up took. Returns what a start's event tells of it.
  std::vector<std::pair<const char*, RunEvent::Value>> log_model(const Engine&,
                                                                 const std::string& library,
                                                                 double seconds) const;

  // Likewise: what the table says that this rank needs, beside what it has taken. (On a CPU the
  // ranks of a process have it together.)
  struct Connections {
    int64_t groups = 0, links = 0;  // bytes of a GPU
  };
  void log_memory(const MemoryTable&, const Connections& taken) const;

  // Before a step is reported: the run goes on after `step`, with `tokens` seen.
  void go_on_from(int64_t step, int64_t tokens);

  // The interval that the next logged step covers begins.
  void begin_interval();
  StepParts& parts() { return interval_.parts; }  // of the interval so far, its sums
  void step_confirmed(const StepResult& result) {
    ++interval_.steps;
    interval_.attention_pairs += result.attention_pairs;
    sinks_.progress(++confirmed_);
  }
  // Of queries and keys in this rank's rows of a step, where attention stops at documents; else 0.
  double attention_pairs(std::span<const int32_t> ids) const;
  // Of this rank, so far.
  RankFigures figures() const;

  // All steps so far are confirmed; ends the interval. `highest`: of all ranks' figures.
  // `experts`: of this step; null: the model has none. `norms`: by layer, where they are asked for.
  void step(int64_t step, const StepResult&, const RankFigures& highest, double lr, int64_t reruns,
            const ExpertTable* experts, const std::vector<LayerNorm>& norms);
  // Does the next logged step, number `step`, show every expert?
  bool shows_experts(int64_t step) const {
    return logged_ % config_.metrics.histogram_freq == 0 || step == config_.training.steps;
  }
  void validation(int64_t step, double loss, const RankFigures& highest, int64_t tokens,
                  double seconds);
  // What is known of steps for their traces, but which they were.
  TraceFacts trace_facts() const;
  void profile(const std::vector<KernelRun>&, const TraceFacts&, std::string trace);
  void event(RunEvent e) { sinks_.event(std::move(e)); }

  struct Summary {
    int64_t steps = 0;
    int signal = 0;              // that ended the run, or 0
    int64_t validated_step = 0;  // of the last validation; 0: none after a step
    double first_validation = 0, last_validation = 0;
    data::SourceStatus::Part data;  // all ranks' documents
  };
  void log_summary(const Summary&) const;
  // The run has ended: sinks have all that they will get.
  void close() const { end_wandb(config_, identity_); }

 private:
  using Clock = std::chrono::steady_clock;
  struct Interval {  // since the last logged step
    Clock::time_point begin = Clock::now();
    int64_t steps = 0;
    StepParts parts;
    double attention_pairs = 0;  // of a rank's rows
  };

  std::string attention_kernels() const;
  std::string layout_text(const Engine&, const std::string& library) const;
  void warn_of_unused_settings(const Engine&) const;
  double tokens_per_device() const;  // of a step
  double computed_flops() const;     // a token, in this interval

  const JobConfig& config_;
  const ModelArgs& args_;
  const RunLayout& layout_;
  Stream& stream_;
  SinkGroup sinks_;
  RunIdentity identity_;
  Interval interval_;
  int64_t first_step_ = 0, first_tokens_ = 0, confirmed_ = 0;
  int64_t logged_ = 0;  // steps
};

}  // namespace nereus
