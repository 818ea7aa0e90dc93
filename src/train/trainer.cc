#include "train/trainer.h"

#include <algorithm>
#include <filesystem>

#include "base/check.h"
#include "base/log.h"
#include "base/units.h"
#include "config/gpu_memory.h"
#include "config/load.h"
#include "device/nvtx.h"
#include "engine/engine_options.h"
#include "engine/memory_table.h"
#include "observe/device_info.h"
#include "train/run_data.h"
#include "train/stop_signal.h"

namespace nereus {
namespace {

// In the place of a signal's number. Below them all: it is time to save. Above them all: the file
// save-and-stop was found; a rank's data set cannot be read on.
constexpr int kSaveAsked = 1, kStopAsked = 200, kNoMoreData = 1000;
// Batches that are prepared beyond those that enqueue() waits for.
constexpr int kBatchesAhead = 2;

LrSchedule lr_schedule(const JobConfig& c) {
  return LrSchedule(c.optimizer.lr, c.training.steps, c.lr_scheduler.warmup_steps,
                    c.lr_scheduler.decay_ratio, c.lr_scheduler.decay_type,
                    c.lr_scheduler.min_lr_factor);
}

}  // namespace

Trainer::Trainer(const LoadedConfig& loaded, Stream& stream, Communicator& all, World& world)
    : loaded_(loaded),
      config_(loaded.config),
      stream_(stream),
      recorder_(StepProfiler::needs_recorder(config_, stream)
                    ? std::make_unique<TraceRecorder>(nvtx::attached())
                    : nullptr),
      all_(all),
      world_(world),
      args_(training_model_args(config_)),
      layout_(run_layout(config_, args_, all.size())),
      lr_(lr_schedule(config_)),
      report_(config_, args_, layout_, stream) {
  stream_.set_trace(recorder_.get());
}

Trainer::~Trainer() { stream_.set_trace(nullptr); }

void Trainer::set_up() {
  const auto started = Clock::now();
  ranks_ = std::make_unique<RankWorld>(layout_.mesh, all_);
  const int64_t after_groups = stream_.free_now();
  make_folder();
  log::info("Starting job: {}", config_.job.description);
  if (!layout_.warning.empty()) log::warning("{}", layout_.warning);
  checkpoint_.emplace(config_, args_, layout_, stream_, *ranks_, world_);
  checkpoint_->find_start();
  if (checkpoint_->complete()) return;
  const int dp_rank = ranks_->position(MeshGroup::dp);
  const auto open_data = [&] {
    // The rank that looks at all of the data set speaks first.
    if (!writes()) all_.barrier(stream_);
    RunData out =
        open_run_data(config_, args_, dp_rank, layout_.mesh.size(MeshGroup::dp),
                      StepRunner::kAhead + kBatchesAhead, checkpoint_->start().state.data);
    if (writes()) all_.barrier(stream_);
    return out;
  };
  RunData data = open_data();
  choose_end_of_document(config_, data, args_);
  validation_.emplace(config_, args_, layout_, dp_rank);

  check_memory();
  engine_ = std::make_unique<Engine>(
      args_, stream_, engine_options(config_, args_, layout_, *ranks_, stream_.on_gpu()));
  runner_ = std::make_unique<StepRunner>(
      stream_, *engine_,
      StepRunner::Options{
          .optimizer = optimizer_options(config_),
          .tokens = static_cast<double>(layout_.global_batch * config_.training.seq_len),
          .base_lr = config_.optimizer.lr,
          .check_capacity = [this](int64_t rows) { check_capacity(rows); },
          .figures = [this] { return report_.figures(); },
          .reruns = checkpoint_->start().state.reruns});
  const int64_t found = checkpoint_->start().state.step;
  checkpoint_->load(*engine_);
  const RunState& start = checkpoint_->start().state;
  if (start.step != found) data = open_data();  // what was found was damaged
  confirmed_ = start.step;
  report_.go_on_from(start.step, start.tokens);
  skipped_ = start.skipped;
  MemoryTable table = memory_;
  if (config_.profiling.enable_memory_snapshot && table.rows.empty() &&
      is_profiled(config_, layout_, all_.rank()))
    table = memory_table(config_, args_, layout_, all_.rank(), stream_);
  profiler_.emplace(StepProfiler::Run{.config = config_,
                                      .layout = layout_,
                                      .stream = stream_,
                                      .world = world_,
                                      .report = report_,
                                      .recorder = recorder_.get(),
                                      .rank = all_.rank(),
                                      .first_step = first_step()},
                    std::move(table));
  experts_.emplace(*engine_, stream_, layout_.global_batch * config_.training.seq_len);
  if (config_.metrics.grad_norm_by_layer) norms_.emplace(*engine_, stream_);

  loader_ = std::move(data.loader);
  loader_->set_trace(recorder_.get());
  if (!loader_->has(1)) std::rethrow_exception(loader_->failure());
  all_.barrier(stream_);  // no rank refuses the run: files may be written
  if (writes()) {
    folder_->keep();
    folder_->write_configuration(print_config(loaded_));
    triggers_.emplace(config_.job.dump_folder);
    triggers_->forget_earlier();
    if (config_.job.save_config_file)
      save_config(config_, std::filesystem::path(config_.job.dump_folder) /
                               *config_.job.save_config_file);  // which may be absolute
  }
  checkpoint_->begin(*engine_, [this](RunEvent e) { report_.event(std::move(e)); });
  const std::vector<RunState::Start>& lineage = checkpoint_->lineage();
  report_.open({.rank = all_.rank(),
                .metrics_rank = metrics_rank(layout_.mesh, layout_.pipeline.schedule.name),
                .step = start.step,
                .id = lineage.front().id,
                .time = lineage.front().time.empty() ? lineage.back().time : lineage.front().time},
               folder_.get());
  auto facts =
      report_.log_model(*engine_, all_.size() > 1 ? all_.library() : "", seconds_since(started));
  report_.log_memory(memory_, {.groups = stream_.free_at_start() - after_groups,
                               .links = engine_->executor().memory().links});
  facts.insert(facts.begin(), {{"run", lineage.front().id},
                               {"start", lineage.back().id},
                               {"ranks", int64_t{all_.size()}},
                               {"setup_seconds", seconds_since(started)}});
  report_.event({.kind = start.step > 0 ? EventKind::resume : EventKind::start,
                 .step = start.step,
                 .text = start.step > 0 ? "goes on from " + checkpoint_->start().path
                                        : config_.job.description,
                 .facts = std::move(facts)});
  if (writes()) profiler_->announce();
}

// One rank makes it; when it cannot, the others end with its message.
void Trainer::make_folder() {
  if (writes()) {
    folder_ = std::make_unique<RunFolder>(config_);
    report_.open_port();
  }
  all_.barrier(stream_);
}

// On CPUs one rank stands for those of its process: threads share the machine's memory.
void Trainer::check_memory() {
  const double host = available_host_memory();
  if (stream_.on_gpu()) {
    memory_ = check_fits(config_, args_, layout_, all_.rank(), stream_,
                         kMostOfGpuMemory * static_cast<double>(stream_.free_at_start()), host);
  } else if (writes()) {
    const int ranks = all_.shares_memory() ? all_.size() : 1;
    memory_ = check_fits(config_, args_, layout_, 0, stream_, host / ranks, host);
  }
}

void Trainer::check_capacity(int64_t rows) {
  if (!stream_.on_gpu()) return;
  JobConfig larger = config_;
  larger.parallelism.expert_capacity_factor =
      static_cast<double>(rows) / static_cast<double>(engine_->expert_slots());
  check_fits(larger, args_, layout_, all_.rank(), stream_,
             kMostOfGpuMemory * static_cast<double>(stream_.free_at_start()),
             available_host_memory());
}

int Trainer::run() {
  try {
    return run_steps();
  } catch (const Error& e) {
    report_.event({.kind = e.fault() == Fault::kNumeric ? EventKind::nonfinite : EventKind::error,
                   .step = confirmed_,
                   .text = e.what()});
    throw;
  }
}

int Trainer::run_steps() {
  const auto& t = config_.training;
  const RunState& start = checkpoint_->start().state;
  if (checkpoint_->complete()) {
    log::info(
        "The run is at its last step: {} of training.steps = {} were done, as {} says. Nothing is "
        "left to train; more steps go on from it.",
        start.step, t.steps, checkpoint_->start().path);
    return 0;
  }
  if (config_.checkpoint.create_seed_checkpoint) {
    checkpoint_->save_seed(*engine_);
    return 0;
  }
  const StopSignal stop;
  validation_->go_on_from(start.first_validation);
  if (validation_->enabled() && !validation_->first())
    validation_->run(start.step, *runner_, report_);
  if (!t.skip_steps.empty() && start.step >= t.skip_steps[0])
    log::info("training.skip_steps = [{}, {}]: the run goes on after step {}, {}.", t.skip_steps[0],
              t.skip_steps[1], start.step,
              start.skipped.empty() ? "so that nothing is passed over" : "and has done so");
  log::info("Training starts at step {}", first_step());
  report_.begin_interval();
  step_begin_ = Clock::now();
  int64_t step = start.step;
  const bool alone = all_.size() == 1;  // else a signal is told with the end of a step
  if (alone) signal_ = StopSignal::received();
  while (step < t.steps && signal_ == 0) {
    ++step;
    world_.set_step(step);
    const bool logged = is_logged(step);
    const bool validated = validation_->due(step);
    name_step_in_device_errors(step, [&] {
      // The last one runs alone, and those that are recorded.
      if (step == t.steps || profiler_->begins_alone(step)) confirm(step - 1);
      profiler_->before(step);
      const TraceRange range(recorder_.get(), TraceKind::step, "step", {.step = step});
      skip_data(step);
      experts_->watch_routers(logged && report_.shows_experts(step));
      enqueue(step);
      // The host is a step ahead of what it knows, except where something is asked of this step.
      const bool asked = logged || validated || step == t.steps || profiler_->ends_alone(step);
      confirm(asked ? step : step - 1);
    });
    profiler_->after(step);
    if (logged) {
      const ExpertTable* experts = experts_->read();
      report_.step(step, result_, runner_->highest(), lr_.at(schedule_step(step)),
                   runner_->reruns(), experts, norms_ ? norms_->read() : std::vector<LayerNorm>());
    }
    const auto saving = Clock::now();
    save_due(step);
    report_.parts().save += seconds_since(saving);
    const auto validating = Clock::now();
    if (validated) {
      const TraceRange range(recorder_.get(), TraceKind::layer, "validation");
      validation_->run(step, *runner_, report_);
    }
    report_.parts().validation += seconds_since(validating);
    if (step == first_step())
      world_.set_timeout(std::chrono::seconds(config_.comm.train_timeout_seconds));
    if (alone) signal_ = std::max(signal_, StopSignal::received());
  }
  name_step_in_device_errors(step, [&] { confirm(step); });
  profiler_->finish(step);
  return end_run(step);
}

// After the last step, or where a signal came or the data ended.
int Trainer::end_run(int64_t step) {
  const auto& t = config_.training;
  if (signal_ != 0 && signal_ != kNoMoreData && signal_ != kStopAsked)
    report_.event({.kind = EventKind::signal,
                   .step = step,
                   .text = std::string(StopSignal::name(signal_)) + " received",
                   .facts = {{"signal", int64_t{signal_}}}});
  if (signal_ == kNoMoreData)
    log::warning("The data set cannot be read on: stopped after step {} of {}", step, t.steps);
  else if (signal_ == kStopAsked)
    log::warning("The file {} was found: stopped after step {} of {}", FileTriggers::kStop, step,
                 t.steps);
  else if (signal_ != 0)
    log::warning("{} received: stopped after step {} of {}", StopSignal::name(signal_), step,
                 t.steps);
  checkpoint_->save_last(*engine_, state_after(step), loader_->state(), step < t.steps);
  report_.log_summary({.steps = step,
                       .signal = signal_,
                       .validated_step = validation_->last_step(),
                       .first_validation = validation_->first().value_or(0),
                       .last_validation = validation_->last(),
                       .data = of_all_ranks(loader_->status(), stream_, all_)});
  unfinished_ = step < t.steps;
  if (signal_ == kNoMoreData) tell_why_no_data();
  const int code = signal_ == kNoMoreData  ? Error(Fault::kIo, "").exit_code()
                   : signal_ == kStopAsked ? kExitStopped
                   : signal_ == 0          ? 0
                                           : 128 + signal_;
  report_.event({.kind = EventKind::end,
                 .step = step,
                 .text = signal_ == kNoMoreData  ? "the data set cannot be read on"
                         : signal_ == kStopAsked ? "stopped by a file"
                         : signal_ == 0          ? "all steps are done"
                                                 : "stopped by a signal",
                 .facts = {{"exit_code", int64_t{code}}}});
  report_.close();
  return code;
}

void Trainer::say_how_to_go_on() const {
  if (!unfinished_) return;
  const int64_t saved = checkpoint_->newest_step();
  const int64_t steps = config_.training.steps;
  if (saved < 0) {
    log::info("The run is not finished, and nothing of it is saved ({}): it would begin again.",
              checkpoint_->saves() ? "no step was done" : "checkpoint.enable is not set");
    return;
  }
  const std::string& command = config_.job.resume_command;
  log::info("The run is not finished: {} of {} steps are saved. To go on: {}", saved, steps,
            command.empty() ? "start the same command again" : command);
}

// To rank 0: what the first rank without data met. What is no fault of the data set is thrown.
void Trainer::tell_why_no_data() {
  std::string mine;
  if (out_of_data_) try {
      std::rethrow_exception(loader_->failure());
    } catch (const Error& e) {
      if (e.fault() != Fault::kIo && e.fault() != Fault::kConfig) throw;
      mine = all_.rank() == 0 ? e.what() : fmt::format("rank {}: {}", all_.rank(), e.what());
    }
  const auto key = [](int rank) { return fmt::format("data error/{}", rank); };
  world_.set(key(all_.rank()), mine);
  for (int r = 0; writes() && data_error_.empty() && r < all_.size(); ++r)
    data_error_ = world_.get(key(r), world_.timeout());
}

bool Trainer::is_logged(int64_t step) const {
  return step == first_step() || step % config_.metrics.log_freq == 0;
}

// Steps that the optimizer's states, or the schedule, have seen with `step`.
int64_t Trainer::optimizer_step(int64_t step) const {
  const RunState& start = checkpoint_->start().state;
  return start.optimizer_step + step - start.step;
}
int64_t Trainer::schedule_step(int64_t step) const {
  const RunState& start = checkpoint_->start().state;
  return std::min(start.schedule_step + step - start.step, config_.training.steps);
}

RunState Trainer::state_after(int64_t step) const {
  const RunState& start = checkpoint_->start().state;
  RunState s;
  s.step = step;
  s.optimizer_step = optimizer_step(step);
  s.schedule_step = schedule_step(step);
  s.tokens = start.tokens + (step - start.step) * layout_.global_batch * config_.training.seq_len;
  s.reruns = runner_->reruns();
  s.skipped = skipped_;
  s.lr = s.schedule_step > 0 ? lr_.at(s.schedule_step) : 0;
  if (engine_->expert_capacity() > 0)
    s.expert_capacity = static_cast<double>(engine_->expert_capacity()) /
                        static_cast<double>(engine_->expert_slots());
  s.first_validation = validation_->first();
  return s;
}

void Trainer::skip_data(int64_t step) {
  const Integers& skip = config_.training.skip_steps;
  if (skip.empty() || skip[0] != step) return;
  confirm(step - 1);  // batches are confirmed in their order
  for (int64_t n = skip[0]; n <= skip[1]; ++n) {
    loader_->next();
    loader_->confirm();
  }
  skipped_.emplace_back(skip[0], skip[1]);
  report_.event({.kind = EventKind::skip,
                 .step = step,
                 .text = "data is passed over",
                 .facts = {{"first", skip[0]}, {"last", skip[1]}}});
  log::info(
      "The data of steps {} to {} is passed over (training.skip_steps): step {} has that of "
      "step {}.",
      skip[0], skip[1], step, skip[1] + 1);
}

void Trainer::save_due(int64_t step) {
  checkpoint_->look_at_writer();
  if (!save_asked_ && !checkpoint_->due(step)) return;
  save_asked_ = false;
  if (step == config_.training.steps) return;
  name_step_in_device_errors(step, [&] { confirm(step); });
  const TraceRange range(recorder_.get(), TraceKind::saving, "save");
  checkpoint_->save(*engine_, state_after(step), loader_->state());
}

// The next batch, cut into the step's microbatches. What a rank says with step n all know before
// step n + kAhead begins (what it says with step 1, which is logged, before step 2): so far ahead
// it looks for data, and no step lacks any.
void Trainer::enqueue(int64_t step) {
  const auto begin = Clock::now();
  std::optional<TraceRange> waiting(std::in_place, recorder_.get(), TraceKind::data, "next batch");
  const data::Batch& batch = loader_->next();  // sources of training loop: it is full
  const int64_t behind = std::min<int64_t>(StepRunner::kAhead, config_.training.steps - step);
  if (!loader_->has(behind)) out_of_data_ = true;
  waiting.reset();
  report_.parts().data += seconds_since(begin);
  std::vector<HostMicrobatch>& microbatches =
      microbatches_[static_cast<size_t>(step % StepRunner::kAhead)];
  microbatches.clear();
  const auto tokens = static_cast<size_t>(layout_.microbatch_rows * config_.training.seq_len);
  const int64_t first_row = ranks_->position(MeshGroup::dp) * layout_.local_rows;
  for (size_t i = 0; i < static_cast<size_t>(layout_.microbatches); ++i)
    microbatches.push_back(
        {.ids = std::span(batch.inputs).subspan(i * tokens, tokens),
         .labels = std::span(batch.labels).subspan(i * tokens, tokens),
         .first_row = first_row + static_cast<int64_t>(i) * layout_.microbatch_rows});
  int signal = StopSignal::received();
  if (signal == 0 && writes()) signal = asked();
  const auto enqueuing = Clock::now();
  runner_->enqueue({.number = step,
                    .updates = optimizer_step(step),
                    .lr = lr_.at(schedule_step(step)),
                    .microbatches = microbatches,
                    .tokens = batch.counted,
                    .attention_pairs = report_.attention_pairs(batch.inputs),
                    .signal = out_of_data_ ? kNoMoreData : signal,
                    .logged = is_logged(step)});
  report_.parts().enqueue += seconds_since(enqueuing);
}

// What the run's folder, or the time, asks of rank 0; 0: nothing.
int Trainer::asked() {
  folder_->check_held();
  const FileTriggers::Ask ask = triggers_->look();
  if (ask == FileTriggers::Ask::stop) return kStopAsked;
  if (ask == FileTriggers::Ask::save) {
    if (checkpoint_->saves()) return kSaveAsked;
    log::warning(
        "The file {} asks for a checkpoint, and {}: nothing is saved.", FileTriggers::kSave,
        config_.checkpoint.enable ? "checkpoint.load_only is set" : "checkpoint.enable is not set");
  }
  return checkpoint_->due_by_time() ? kSaveAsked : 0;
}

// All steps up to `step`.
void Trainer::confirm(int64_t step) {
  while (confirmed_ < step) {
    const TraceRange range(recorder_.get(), TraceKind::waiting, "wait for step",
                           {.step = confirmed_ + 1});
    const int64_t reruns = runner_->reruns();
    const auto waiting = Clock::now();
    result_ = runner_->confirm(confirmed_ + 1);
    report_.parts().wait += seconds_since(waiting);
    ++confirmed_;
    if (runner_->reruns() > reruns)
      report_.event({.kind = EventKind::rerun,
                     .step = confirmed_,
                     .text = "ran again with more expert capacity",
                     .facts = {{"reruns", runner_->reruns()}}});
    if (result_.signal == kSaveAsked) {
      save_asked_ = true;
    } else {
      signal_ = std::max(signal_, result_.signal);
    }
    loader_->confirm();
    report_.step_confirmed(result_);
    step_seconds_.push_back(seconds_since(step_begin_));
    step_begin_ = Clock::now();
  }
}

// A device's error ends the run: it says at which step, and what is left of the run.
void Trainer::name_step_in_device_errors(int64_t step, const std::function<void()>& work) const {
  try {
    work();
  } catch (const Error& e) {
    if (e.fault() != Fault::kDevice) throw;
    NEREUS_FAIL(kDevice,
                "step {}: {}\n  The device's memory is lost: weights since the last save are gone; "
                "{}/metrics.jsonl has every logged step. Look at nvidia-smi and the kernel's log "
                "(dmesg, Xid) before starting again.",
                step, e.what(), config_.job.dump_folder);
  }
}

}  // namespace nereus
