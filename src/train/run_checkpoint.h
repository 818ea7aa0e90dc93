// A run's checkpoints: what it starts from, when it saves, what it keeps. The tensors' way to the
// files and back is checkpoint/'s; what a step is is the trainer's.
//
// All ranks call everything in step; rank 0 looks at folders and decides. In this order:
//
//   find_start()   before data and model are made (train/checkpoint_start.h)
//   load()         into the engine; a checkpoint that turns out damaged is set aside, and the one
//                  before it is start() then
//   begin()        no rank refuses the run but for host memory: folders may be changed. The engine
//                  outlives this from here on
//   save(), save_last()
//
// Errors: kConfig when a checkpoint and the configuration do not go together, or nothing there can
// be gone on from; kIo when the last save fails.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/save_together.h"
#include "config/job_config.h"
#include "config/model_args.h"
#include "control/world.h"
#include "engine/engine.h"
#include "engine/run_layout.h"
#include "observe/run_event.h"
#include "parallel/rank_world.h"
#include "train/checkpoint_start.h"
#include "train/checkpoint_state.h"
#include "train/save_beside.h"

namespace nereus {

class RunCheckpoint {
 public:
  // `ranks`: this rank's groups. All must outlive this.
  RunCheckpoint(const JobConfig&, const ModelArgs&, const RunLayout&, Stream&,
                const RankWorld& ranks, World&);

  void find_start();
  const CheckpointStart& start() const { return start_; }
  // The last step was saved: there is nothing to train.
  bool complete() const;

  // The initial weights: those of start(), or the seed's.
  void load(Engine&);
  // `tell` is told of saves.
  void begin(Engine&, std::function<void(RunEvent)> tell);
  // After begin(), on every rank: the starts of the run, this one last.
  const std::vector<RunState::Start>& lineage() const { return facts_.lineage; }

  bool due(int64_t step) const;  // a save after this step, which is not the last
  bool due_by_time() const;      // rank 0: checkpoint.interval_minutes have gone by
  bool saves() const { return config_.checkpoint.enable && !config_.checkpoint.load_only; }
  // Of what the run's folder holds, as far as this start knows: the last step that a resume goes on
  // from; -1: none.
  int64_t newest_step() const;
  // Step 0, weights alone.
  void save_seed(Engine&);
  // `now`: where the run is; `data`: this rank's data position. No step is unconfirmed. A save that
  // fails is a warning.
  void save(Engine&, const RunState& now, const std::string& data);
  // After each step: has a save that goes on beside them ended?
  void look_at_writer();
  // After the last step, or (`stopped`) after one that was to be followed by others.
  void save_last(Engine&, const RunState& now, const std::string& data, bool stopped);

 private:
  using Clock = std::chrono::steady_clock;
  bool rank0() const { return world_.rank() == 0; }

  void share_start();
  void log_start() const;
  bool load_native(Engine&);
  std::string damage(const std::vector<uint64_t>& sums, const std::string& mine) const;
  void load_hugging_face(Engine&);
  void begin_capacity(Engine&) const;

  bool saves_beside() const;
  void begin_beside(Engine&);
  ShardContents contents(const CheckpointState&, bool weights) const;
  SaveTogether together(const RunState& now, const std::string& data, bool weights);
  std::string save_native(Engine&, const RunState& now, const std::string& data, bool weights);
  void finish_beside();
  void report(int64_t step, const std::string& failure);
  void tell(int64_t step, const char* state, Clock::time_point begin) const;
  void warn_of_slow_save(double seconds);
  void save_hugging_face(Engine&, const std::string& folder);
  void warn_of_little_space() const;
  void purge() const;

  const JobConfig& config_;
  const ModelArgs& args_;
  const RunLayout& layout_;
  Stream& stream_;
  const RankWorld& ranks_;
  World& world_;
  const std::string folder_;  // of the run's checkpoints
  RunState facts_;            // what is the same in all saves of this run's start
  CheckpointStart start_;
  std::function<void(RunEvent)> tell_ = [](const RunEvent&) {};
  int64_t saves_ = 0;
  int64_t saved_step_ = -1;  // of the last save of everything that succeeded
  bool warned_of_slow_save_ = false;
  Clock::time_point last_save_ = Clock::now();
  std::unique_ptr<SaveBeside> beside_;  // null: saves are in the step
  bool no_memory_ = false;              // for it
};

}  // namespace nereus
