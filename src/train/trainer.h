// A rank's training run: builds its part of the model and of the data from a configuration, steps,
// and leaves the run's folder behind. With several ranks all of them do the same in step, and rank
// 0 writes.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "config/load.h"
#include "control/world.h"
#include "data/loader.h"
#include "engine/step_runner.h"
#include "train/expert_watch.h"
#include "train/file_triggers.h"
#include "train/gradient_norms.h"
#include "train/lr_schedule.h"
#include "train/run_checkpoint.h"
#include "train/run_folder.h"
#include "train/run_report.h"
#include "train/step_profiler.h"
#include "train/validation.h"

namespace nereus {

class Trainer {
 public:
  // `all` has every rank of the run, `world` what they need of each other besides tensors. All
  // arguments must outlive the trainer. Throws Error{kConfig} for settings that contradict each
  // other; set_up() must follow.
  Trainer(const LoadedConfig&, Stream& stream, Communicator& all, World& world);
  ~Trainer();

  // Checks everything that can be checked and allocates everything that will be needed. Throws
  // Error{kConfig} when the run cannot start; nothing is left behind then.
  void set_up();

  // Trains to training.steps, or to the end of the step in which a StopSignal came or the file
  // save-and-stop was found, or to the last one for which all ranks have data when a data set
  // cannot be read on. All ranks stop after the same step and save. Returns the process's exit
  // code, the same on every rank: 0, 128 + the signal's number, kExitStopped, or that of
  // Error{kIo}.
  int run();
  // The last line of a run that is not finished, after run(): the command by which it goes on.
  void say_how_to_go_on() const;
  // Of rank 0, after run(): why the data set could not be read on; "" otherwise.
  const std::string& data_error() const { return data_error_; }

  // Of each step of run(), from when the host knew of the end of the one before (of the first: from
  // its beginning), with its loading and logging.
  const std::vector<double>& step_seconds() const { return step_seconds_; }

 private:
  using Clock = std::chrono::steady_clock;

  bool writes() const { return all_.rank() == 0; }
  int run_steps();
  int end_run(int64_t step);
  void make_folder();
  void check_memory();
  void check_capacity(int64_t rows);
  bool is_logged(int64_t step) const;
  int64_t first_step() const { return checkpoint_->start().state.step + 1; }
  int64_t optimizer_step(int64_t step) const;
  int64_t schedule_step(int64_t step) const;
  RunState state_after(int64_t step) const;
  void save_due(int64_t step);
  void skip_data(int64_t step);
  void enqueue(int64_t step);
  int asked();
  void tell_why_no_data();
  void confirm(int64_t step);
  void name_step_in_device_errors(int64_t step, const std::function<void()>& work) const;

  const LoadedConfig& loaded_;
  const JobConfig& config_;
  Stream& stream_;
  std::unique_ptr<TraceRecorder> recorder_;  // null: nothing will be recorded
  Communicator& all_;
  World& world_;
  ModelArgs args_;
  RunLayout layout_;
  LrSchedule lr_;
  RunReport report_;
  std::unique_ptr<RankWorld> ranks_;      // this rank's groups
  std::unique_ptr<RunFolder> folder_;     // of the rank that writes
  std::optional<FileTriggers> triggers_;  // likewise
  std::unique_ptr<data::Loader> loader_;
  std::unique_ptr<Engine> engine_;
  std::optional<RunCheckpoint> checkpoint_;
  MemoryTable memory_;  // on ranks that have looked whether the run fits
  std::unique_ptr<StepRunner> runner_;
  std::optional<Validation> validation_;
  std::optional<StepProfiler> profiler_;
  std::optional<ExpertWatch> experts_;
  std::optional<GradientNorms> norms_;

  // Of the steps that are enqueued and not confirmed; step n has [n % kAhead].
  std::array<std::vector<HostMicrobatch>, StepRunner::kAhead> microbatches_;
  int64_t confirmed_ = 0;                             // steps
  bool save_asked_ = false;                           // by rank 0, of all ranks
  std::vector<std::pair<int64_t, int64_t>> skipped_;  // training.skip_steps, as far as done
  StepResult result_;                                 // of the step confirmed last
  int signal_ = 0;                                    // the highest that a rank told of
  bool out_of_data_ = false;                          // this rank
  bool unfinished_ = false;
  std::string data_error_;
  Clock::time_point step_begin_;
  std::vector<double> step_seconds_;
};

}  // namespace nereus
