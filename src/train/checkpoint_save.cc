// RunCheckpoint: saving, in the step or beside those that follow.
#include <cerrno>
#include <cmath>
#include <cstring>
#include <ctime>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/log.h"
#include "base/text.h"
#include "base/units.h"
#include "checkpoint/step_folders.h"
#include "train/run_checkpoint.h"

namespace nereus {
namespace {

using Kind = CheckpointStart::Kind;

std::string now_in_utc() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[32];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts)};
}

// What helps against a failure that is a limit of the file system's, as a further line.
std::string remedy(const std::string& failure) {
  const auto says = [&](int error) {
    return failure.find(std::strerror(error)) != std::string::npos;
  };
  if (says(EDQUOT))
    return "\n  The quota of the user, group or project is used up (`quota -s`, `lfs quota -h`): "
           "free space, have it raised, or lower checkpoint.keep_latest_k.";
  if (says(ENOSPC)) return "\n  The disk is full: free space, or lower checkpoint.keep_latest_k.";
  return "";
}

}  // namespace

void RunCheckpoint::save_seed(Engine& engine) {
  NEREUS_CHECK(kConfig, config_.checkpoint.enable && !config_.checkpoint.load_only,
               "checkpoint.create_seed_checkpoint needs checkpoint.enable, and no "
               "checkpoint.load_only.");
  NEREUS_CHECK(kConfig, ranks_.ranks() == 1,
               "Must create seed checkpoint using a single device, to disable sharding.\n  "
               "checkpoint.create_seed_checkpoint: there are {} ranks; start one.",
               ranks_.ranks());
  const auto begin = Clock::now();
  log::info("Saving a model only checkpoint in {} at last step, step 0.",
            word(config_.checkpoint.export_dtype));
  const std::string failure = save_native(engine, RunState(), "", true);
  NEREUS_CHECK(kIo, failure.empty(), "the seed checkpoint was not saved: {}", failure);
  log::info("Finished saving the checkpoint (or staging if async is enabled)in {:.2f} seconds.",
            seconds_since(begin));
}

bool RunCheckpoint::saves_beside() const {
  return saves() && config_.checkpoint.async_mode != "disabled";
}

void RunCheckpoint::begin_beside(Engine& engine) {
  const auto& c = config_.checkpoint;
  check_host_memory(world_, host_share(engine),
                    fmt::format("checkpoint.async_mode = \"{}\"", c.async_mode));
  const int64_t first = c.enable_first_step_checkpoint ? 1 : c.interval;
  if (first < config_.training.steps || c.interval_minutes > 0)
    beside_ = std::make_unique<SaveBeside>(engine, stream_);
}

void RunCheckpoint::save(Engine& engine, const RunState& now, const std::string& data) {
  const auto begin = Clock::now();
  finish_beside();  // one save at a time
  log::info("Saving the checkpoint (or staging if async is enabled).");
  last_save_ = Clock::now();
  if (saves_beside() && !beside_ && !no_memory_)
    beside_ = std::make_unique<SaveBeside>(engine, stream_);
  if (const std::string why = beside_ ? beside_->made() : ""; !why.empty()) {
    log::warning(
        "{}\n  Checkpoints are written in the step, as with checkpoint.async_mode = "
        "\"disabled\".",
        why);
    no_memory_ = true;
    beside_.reset();
  }
  if (beside_) {
    beside_->begin(engine, stream_, world_, now.step, together(now, data, false));
  } else {
    const std::string failure = save_native(engine, now, data, false);
    report(now.step, failure);
    if (!failure.empty()) return tell(now.step, "failed", begin);
    warn_of_slow_save(seconds_since(begin));
  }
  tell(now.step, beside_ ? "staged" : "saved", begin);
  log::info("Finished saving the checkpoint (or staging if async is enabled)in {:.2f} seconds.",
            seconds_since(begin));
}

// Training stood still since `begin`.
void RunCheckpoint::tell(int64_t step, const char* state, Clock::time_point begin) const {
  tell_({.kind = EventKind::checkpoint,
         .step = step,
         .text = fmt::format("checkpoint of step {} {}", step, state),
         .facts = {{"state", state}, {"seconds", seconds_since(begin)}}});
}

// Once a save has ended.
void RunCheckpoint::report(int64_t step, const std::string& failure) {
  if (failure.empty()) saved_step_ = step;
  if (!failure.empty())
    log::warning(
        "The checkpoint of step {} was not saved: {}{}\n  Training goes on, and the checkpoints "
        "before it are as they were; the next save is tried after checkpoint.interval = {} steps.",
        step, failure, remedy(failure), config_.checkpoint.interval);
  else if (rank0())
    purge();
}

// Of a save by which the run may have to end.
void RunCheckpoint::warn_of_slow_save(double seconds) {
  const double lead = config_.checkpoint.stop_lead_seconds;
  if (lead <= 0 || seconds <= lead || warned_of_slow_save_) return;
  warned_of_slow_save_ = true;
  log::warning(
      "The last save took {:.2f} s, and the run is told {:g} s before its end to stop "
      "(checkpoint.stop_lead_seconds): it would be killed while it saves. Have it told earlier, "
      "with sbatch --signal=TERM@{:.0f} and --checkpoint.stop_lead_seconds={:.0f}.",
      seconds, lead, std::ceil(2 * seconds), std::ceil(2 * seconds));
}

void RunCheckpoint::look_at_writer() {
  if (beside_ && beside_->has_ended()) finish_beside();
}

void RunCheckpoint::finish_beside() {
  const auto ended = beside_ ? beside_->end() : std::nullopt;
  if (!ended) return;
  report(ended->step, ended->failure);
  tell(ended->step, ended->failure.empty() ? "complete" : "failed", Clock::now());
  if (ended->failure.empty())
    log::info("The checkpoint of step {} is complete, {:.2f} seconds after its save began.",
              ended->step, ended->seconds);
  if (ended->failure.empty()) warn_of_slow_save(ended->seconds);
}

void RunCheckpoint::save_last(Engine& engine, const RunState& now, const std::string& data,
                              bool stopped) {
  const auto& c = config_.checkpoint;
  finish_beside();
  if (!saves()) return;
  if (stopped && (now.step == 0 || now.step == start_.state.step || now.step == saved_step_))
    return;
  const auto begin = Clock::now();
  std::string failure;
  if (stopped || !c.last_save_model_only) {
    log::info("Saving the checkpoint (or staging if async is enabled).");
    failure = save_native(engine, now, data, false);
  } else {
    log::info("Saving a model only checkpoint in {} at last step, step {}.", word(c.export_dtype),
              now.step);
    if (c.last_save_in_hf) {
      save_hugging_face(engine, step_path(folder_, now.step));
    } else {
      failure = save_native(engine, now, data, true);
    }
  }
  NEREUS_CHECK(kIo, failure.empty(), "the checkpoint of step {} was not saved: {}{}", now.step,
               failure, remedy(failure));
  const bool everything = stopped || !c.last_save_model_only;
  if (everything) saved_step_ = now.step;
  if (rank0() && everything) purge();
  tell(now.step, "saved", begin);
  log::info("Finished saving the checkpoint (or staging if async is enabled)in {:.2f} seconds.",
            seconds_since(begin));
  if (stopped) warn_of_slow_save(seconds_since(begin));
}

ShardContents RunCheckpoint::contents(const CheckpointState& state, bool weights) const {
  return {
      .slices = state.slices,
      .states = std::span(state.states).subspan(0, weights ? 1 : state.states.size()),
      .extras = std::span(state.biases).subspan(0, state.writes_biases ? state.biases.size() : 0),
      .model_dtype = weights ? config_.checkpoint.export_dtype : DType::f32};
}

// All but the shard: write_shard gives this rank's facts alone.
SaveTogether RunCheckpoint::together(const RunState& now, const std::string& data, bool weights) {
  RunState run = now;
  run.weights_only = weights;
  run.time = now_in_utc();
  run.program = facts_.program;
  run.layout = facts_.layout;
  run.ranks = facts_.ranks;
  run.global_batch = facts_.global_batch;
  run.config = facts_.config;
  run.model = facts_.model;
  run.fingerprint = facts_.fingerprint;
  run.lineage = facts_.lineage;
  run.data.resize(static_cast<size_t>(ranks_.size(MeshGroup::dp)));
  Manifest facts;
  // One of the ranks that read the same data tells where it is.
  if (ranks_.position(MeshGroup::pp) + ranks_.position(MeshGroup::cp_tp) == 0)
    facts.run = nlohmann::json{{"dp", ranks_.position(MeshGroup::dp)}, {"data", data}}.dump();
  return {.place = step_path(folder_, now.step),
          .key = fmt::format("checkpoint/{}", ++saves_),
          .write_shard = [facts](const std::string&, const std::string&) { return facts; },
          .make_run =
              [run](const std::vector<std::string>& all) {
                RunState whole = run;
                for (const std::string& text : all) {
                  const auto fact = nlohmann::json::parse(text);
                  if (fact.contains("dp"))
                    whole.data.at(fact["dp"].get<size_t>()) = fact["data"].get<std::string>();
                }
                return to_json(whole);
              },
          .verify = config_.checkpoint.verify};
}

// Returns what went wrong, or "".
std::string RunCheckpoint::save_native(Engine& engine, const RunState& now, const std::string& data,
                                       bool weights) {
  const CheckpointState state(engine, stream_, false);
  SaveTogether save = together(now, data, weights);
  save.write_shard = [&, facts = save.write_shard](const std::string& folder,
                                                   const std::string& name) {
    Manifest part = save_shard(folder, name, contents(state, weights), stream_);
    part.run = facts("", "").run;
    return part;
  };
  return save_together(world_, save);
}

void RunCheckpoint::purge() const {
  const auto& c = config_.checkpoint;
  try {
    purge_steps(folder_, c.keep_latest_k, c.keep_every);
  } catch (const Error& e) {
    log::warning("A checkpoint beyond checkpoint.keep_latest_k = {} stays: {}", c.keep_latest_k,
                 e.what());
  }
}

}  // namespace nereus
