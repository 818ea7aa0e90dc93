#include "train/run_checkpoint.h"

#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/log.h"
#include "base/philox.h"
#include "base/text.h"
#include "base/units.h"
#include "checkpoint/step_folders.h"
#include "control/tcp.h"
#include "train/broadcast_text.h"
#include "train/checkpoint_facts.h"
#include "train/checkpoint_state.h"
#include "train/shared_folder.h"

#ifndef NEREUS_VERSION
#define NEREUS_VERSION "?"
#endif

namespace nereus {
namespace {

namespace fs = std::filesystem;
using Kind = CheckpointStart::Kind;

std::string utc(const char* format) {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[32];
  return {text, std::strftime(text, sizeof text, format, &parts)};
}

std::string local_time(const char* format) {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::localtime_r(&now, &parts);
  char text[32];
  return {text, std::strftime(text, sizeof text, format, &parts)};
}

// Not the same for any two starts.
std::string new_id() {
  const auto ns = std::chrono::system_clock::now().time_since_epoch().count();
  return fmt::format("{:016x}",
                     hash_name(fmt::format("{} {} {}", tcp::host_name(), ::getpid(), ns)));
}

const char* holds(const Manifest& m) {
  if (!m.has(SavedState::first_moment)) return "weights";
  for (const Manifest::Tensor& t : m.tensors)
    if (t.state == SavedState::first_moment && t.dtype == DType::bf16)
      return "weights in f32, moments in bf16, data position";
  return "weights and moments in f32, data position";
}

}  // namespace

RunCheckpoint::RunCheckpoint(const JobConfig& config, const ModelArgs& args,
                             const RunLayout& layout, Stream& stream, const RankWorld& ranks,
                             World& world)
    : config_(config),
      args_(args),
      layout_(layout),
      stream_(stream),
      ranks_(ranks),
      world_(world),
      folder_(checkpoints_of(config)) {
  facts_.program = NEREUS_VERSION;
  facts_.layout = layout.mesh.to_string();
  if (layout.pipeline.schedule.stages() > 1)
    facts_.layout += ", schedule " + layout.pipeline.schedule.name;
  facts_.ranks = layout.mesh.world();
  facts_.global_batch = layout.global_batch;
  facts_.config = config_values(config);
  facts_.model = model_facts(args);
  facts_.fingerprint = model_fingerprint(args);
}

void RunCheckpoint::find_start() {
  if (saves()) check_shared_folder(folder_, ranks_.world(), stream_);
  if (rank0()) start_ = find_checkpoint_start(config_, facts_);
  share_start();
}

// Rank 0's start_ to all: a manifest is read from the disk once.
void RunCheckpoint::share_start() {
  nlohmann::json head;
  if (rank0())
    head = {{"kind", static_cast<int>(start_.kind)},
            {"path", start_.path},
            {"own", start_.own},
            {"step", start_.state.step}};
  head =
      nlohmann::json::parse(broadcast_text(rank0() ? head.dump() : "", 0, ranks_.world(), stream_));
  const auto kind = static_cast<Kind>(head.at("kind").get<int>());
  const bool native = kind == Kind::resume || kind == Kind::weights;
  const std::string manifest =
      broadcast_text(rank0() && native ? to_text(start_.manifest) : "", 0, ranks_.world(), stream_);
  if (!rank0()) {
    start_ = {.kind = static_cast<Kind>(head.at("kind").get<int>()),
              .path = head.at("path").get<std::string>(),
              .own = head.at("own").get<bool>()};
    start_.state.step = head.at("step").get<int64_t>();
    if (native) start_.manifest = parse_manifest(manifest, start_.path);
    check_seen(start_, config_, world_);
    if (start_.kind == Kind::resume)
      start_.state = parse_run_state(start_.manifest.run, start_.path);
  }
  if (start_.kind != Kind::resume) return;
  RunState& s = start_.state;
  if (!loads_part(config_, "optimizer")) s.optimizer_step = 0;
  if (!loads_part(config_, "lr_scheduler")) s.schedule_step = 0;
  if (!loads_part(config_, "dataloader")) s.data.clear();
  if (!loads_part(config_, "train_state")) s.step = s.tokens = s.reruns = 0;
}

bool RunCheckpoint::complete() const {
  return start_.kind == Kind::complete ||
         (start_.kind == Kind::resume && start_.state.step >= config_.training.steps);
}

void RunCheckpoint::log_start() const {
  const RunState& s = start_.state;
  log::info("Resuming after step {} from {}: {}; {} in {} files, saved {} by {}.", s.step,
            start_.path, holds(start_.manifest), size_text(start_.manifest.bytes()),
            start_.manifest.files.size(), s.time, s.program);
  const auto ranks = [](int64_t n) { return fmt::format("{} rank{}", n, n == 1 ? "" : "s"); };
  log::info("Layout that wrote it: {} ({}); layout now: {} ({}).", s.layout, ranks(s.ranks),
            facts_.layout, ranks(facts_.ranks));
}

void RunCheckpoint::begin(Engine& engine, std::function<void(RunEvent)> tell) {
  tell_ = std::move(tell);
  if (saves_beside()) begin_beside(engine);
  facts_.lineage = start_.state.lineage;
  const std::string mine = broadcast_text(rank0() ? new_id() + " " + local_time("%Y%m%d-%H%M") : "",
                                          0, ranks_.world(), stream_);
  const size_t blank = mine.find(' ');
  facts_.lineage.push_back({mine.substr(0, blank), start_.state.step, mine.substr(blank + 1)});
  if (!rank0() || !saves()) return;
  remove_remains(folder_);
  const bool resumed = start_.own && start_.kind == Kind::resume;
  for (const StepFolder& s : step_folders(folder_)) {
    if (!resumed || s.step <= start_.state.step || config_.checkpoint.load_step < 0) continue;
    const std::string now = set_aside(s.path, utc("abandoned-%Y%m%dT%H%M%SZ"));
    log::warning("The run goes back to step {} (checkpoint.load_step): {} is now {}.",
                 start_.state.step, s.path, now);
  }
  warn_of_little_space();
  const auto& c = config_.checkpoint;
  if (c.last_save_model_only)
    log::info(
        "The last save, of step {}, will hold weights alone, of which no run can go on: "
        "checkpoint.last_save_model_only = true; --checkpoint.no_last_save_model_only saves "
        "everything.",
        config_.training.steps);
}

// Masters and moments; a last save of weights alone where it is the only one.
void RunCheckpoint::warn_of_little_space() const {
  const auto& c = config_.checkpoint;
  const bool only_last = c.interval >= config_.training.steps && c.last_save_model_only;
  const int64_t need = checkpoint_bytes(config_, args_, only_last);
  std::error_code error;
  const fs::space_info space = fs::space(folder_, error);
  if (!error && space.available < static_cast<uint64_t>(need))
    log::warning(
        "A checkpoint takes {}, and {} has {} free: without more space it will not be saved.",
        size_text(need), folder_, size_text(static_cast<int64_t>(space.available)));
}

bool RunCheckpoint::due(int64_t step) const {
  const auto& c = config_.checkpoint;
  return saves() && step != config_.training.steps &&
         ((step == 1 && c.enable_first_step_checkpoint) || step % c.interval == 0);
}

int64_t RunCheckpoint::newest_step() const {
  const bool resumed = start_.own && start_.kind == Kind::resume;
  return std::max(saved_step_, resumed ? start_.state.step : -1);
}

bool RunCheckpoint::due_by_time() const {
  const double minutes = config_.checkpoint.interval_minutes;
  return saves() && minutes > 0 && seconds_since(last_save_) >= 60 * minutes;
}

}  // namespace nereus
