// A rank's training run: builds its part of the model and of the data from a configuration, steps,
// logs, and leaves the run's folder behind. With several ranks all of them do the same in step, and
// rank 0 writes.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "config/job_config.h"
#include "data/loader.h"
#include "engine/engine.h"
#include "engine/optimizer.h"
#include "engine/run_layout.h"
#include "engine/run_options.h"
#include "observe/kernel_times.h"
#include "observe/metrics.h"
#include "train/lr_schedule.h"
#include "train/run_folder.h"

namespace nereus {

class Trainer {
 public:
  // Calls its argument; may see what that throws while the trainer's parts still live.
  using Guard = std::function<void(FunctionRef<void()>)>;
  // Checks everything that can be checked and allocates everything that will be needed, inside of
  // `guard` where there is one. `config` and `world` (null: one rank) must outlive the trainer.
  // Throws Error{kConfig} before anything is written when the run cannot start.
  Trainer(const JobConfig& config, Stream& stream, Communicator* world = nullptr,
          const Guard& guard = nullptr);
  ~Trainer();

  // Trains to training.steps, or to the end of the step in which a StopSignal came. Returns the
  // process's exit code: 0, or 128 + the signal's number.
  int run();

  // Of each step of run(), from when the host knew of the end of the one before (of the first: from
  // its beginning), with its loading and logging.
  const std::vector<double>& step_seconds() const { return step_seconds_; }

 private:
  using Clock = std::chrono::steady_clock;

  // Sums since the last logged step.
  struct Interval {
    Clock::time_point begin = Clock::now();
    int64_t steps = 0;
    double data_seconds = 0;
  };

  bool writes() const { return world_ == nullptr || world_->rank() == 0; }
  int dp_rank() const { return world_ == nullptr ? 0 : world_->position(MeshGroup::dp); }
  int dp_size() const { return layout_.mesh.size(MeshGroup::dp); }
  void set_up(Communicator* world);
  void make_folder();
  void check_memory();
  void open_files();
  void say_model(double seconds) const;
  std::string attention_kernels() const;
  void load_weights();
  void save_weights(const std::string& folder, DType);
  void load_batch();
  void run_batch(const std::function<void()>& update);
  void enqueue(int64_t step);
  // Until `step`, at most the last enqueued, is known to count: a step that does not is run again
  // with those behind it.
  void confirm(int64_t step);
  void run_again(int64_t step, const StepGate::Outcome&);
  void make_room(int64_t step, int64_t wanted_rows);
  [[noreturn]] void fail_nonfinite(int64_t step, const StepGate::Outcome&);
  void guard(int64_t step, const std::function<void()>& work) const;
  void log_step(int64_t step);
  float evaluate(const std::vector<data::Batch>&, int64_t step, int64_t counted);
  double validate(int64_t step);
  double tokens_a_step() const;
  bool account_for(int64_t step);  // records the kernels of this step, the last one
  void while_gpus_rest(FunctionRef<void()> work);
  void say_account(double seconds);
  void save_last(int64_t step);
  void say_goodbye(int64_t step, int signal) const;

  const JobConfig& config_;
  Stream& stream_;
  ModelArgs args_;
  RunLayout layout_;
  std::unique_ptr<RankWorld> world_;   // null: one rank
  std::unique_ptr<RunFolder> folder_;  // of the rank that writes
  std::unique_ptr<data::Loader> loader_;
  std::unique_ptr<MetricsFile> metrics_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Optimizer> optimizer_;
  LrSchedule lr_;
  std::vector<HostMicrobatch> microbatches_;  // of the step enqueued last
  int64_t enqueued_ = 0, confirmed_ = 0;      // steps
  StepGate::Outcome last_;                    // of the step confirmed last
  int64_t overflows_ = 0;                     // steps run again for room
  int signal_ = 0;                            // the highest that a rank told
  Interval interval_;
  Clock::time_point step_begin_;
  double flops_per_token_ = 0;
  std::vector<double> step_seconds_;
  KernelRecorder recorder_;
  bool recording_ = false;
  int64_t tokens_seen_ = 0;
  double first_validation_ = 0, last_validation_ = 0;
};

}  // namespace nereus
