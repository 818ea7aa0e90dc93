// A training run on one rank: builds the model and the data from a configuration, steps, logs, and
// leaves the run's folder behind.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "config/job_config.h"
#include "data/loader.h"
#include "observe/kernel_times.h"
#include "observe/metrics.h"
#include "train/engine.h"
#include "train/lr_schedule.h"
#include "train/optimizer.h"

namespace nereus {

class Trainer {
 public:
  // Checks everything that can be checked and allocates everything that will be needed. `config`
  // must outlive the trainer. Throws Error{kConfig} before anything is written when the run cannot
  // start.
  Trainer(const JobConfig& config, Stream& stream);
  ~Trainer();

  // Trains to training.steps, or to the end of the step in which a StopSignal came. Returns the
  // process's exit code: 0, or 128 + the signal's number.
  int run();

 private:
  struct Interval;  // what is measured between two logged steps

  void load_weights();
  Optimizer::Result train_step(int64_t step, Interval&);
  Optimizer::Result guarded_step(int64_t step, Interval&);
  void fail_nonfinite(int64_t step, const Optimizer::Result&);
  void log_step(int64_t step, const Optimizer::Result&, Interval&);
  double validate(int64_t step);
  bool account_for(int64_t step);  // records the kernels of this step, the last one
  void say_account(double seconds);
  void save_last(int64_t step);
  void say_goodbye(int64_t step, int signal) const;

  const JobConfig& config_;
  Stream& stream_;
  ModelArgs args_;
  int64_t accumulation_ = 1;  // microbatches a step
  std::unique_ptr<data::Loader> loader_;
  std::unique_ptr<MetricsFile> metrics_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Optimizer> optimizer_;
  LrSchedule lr_;
  std::vector<Action> schedule_;
  std::vector<HostMicrobatch> microbatches_;  // of the current step
  double flops_per_token_ = 0;
  KernelRecorder recorder_;
  int64_t tokens_seen_ = 0;
  double first_validation_ = 0, last_validation_ = 0;
};

// The model's arguments of a run, its sequence length and end-of-document id included.
ModelArgs training_model_args(const JobConfig&);

// What each block recomputes, by activation_checkpoint.mode.
std::vector<Recompute> recompute_by_block(const JobConfig&, int64_t blocks);

}  // namespace nereus
