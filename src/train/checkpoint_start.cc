#include "train/checkpoint_start.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <thread>

#include "base/check.h"
#include "base/files.h"
#include "base/log.h"
#include "checkpoint/step_folders.h"
#include "control/tcp.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;
using Kind = CheckpointStart::Kind;

std::string steps_text(const std::vector<StepFolder>& all) {
  std::vector<int64_t> steps;
  for (const StepFolder& s : all) steps.push_back(s.step);
  std::reverse(steps.begin(), steps.end());
  return steps.empty() ? "none" : fmt::format("{}", fmt::join(steps, ", "));
}

// Refuses what makes the state meaningless, and says what else has changed.
void compare(const std::string& path, const RunState& saved, const RunState& now,
             const LoadedParts& parts) {
  const ConfigChanges changes = config_changes(saved, now, parts);
  NEREUS_CHECK(
      kConfig, changes.refused.empty(),
      "{}: this checkpoint cannot go on with the run's configuration ({} there, the configuration "
      "here):\n  {}\n  Set the values as they were; or give this run a folder of its own with "
      "--job.dump_folder=..., where --checkpoint.initial_load_path={} starts it from the weights, "
      "if they are of its model.",
      path, kManifestFile, fmt::join(changes.refused, "\n  "), path);
  for (const std::string& line : changes.said)
    log::info("The configuration has changed since {}: {}", fs::path(path).filename().string(),
              line);
}

class OwnFolder {
 public:
  OwnFolder(const JobConfig& config, const RunState& now)
      : config_(config), now_(now), folder_(checkpoints_of(config)), all_(step_folders(folder_)) {}

  // Nothing: there is no checkpoint.
  std::optional<CheckpointStart> find() {
    const int64_t asked = config_.checkpoint.load_step;
    const std::vector<StepFolder> all = all_;
    if (asked >= 0)
      NEREUS_CHECK(
          kConfig,
          std::any_of(all.begin(), all.end(), [&](const StepFolder& s) { return s.step == asked; }),
          "--checkpoint.load_step={} but checkpoint {} is not found.\n  Steps that are "
          "there: {}.",
          asked, step_path(folder_, asked), steps_text(all));
    std::string weights;  // of the newest save that has weights alone
    for (const StepFolder& s : all) {
      if (asked >= 0 && s.step != asked) continue;
      std::optional<CheckpointStart> start = look_at(s);
      if (!start) continue;
      if (start->kind == Kind::resume || (start->kind == Kind::weights && s.step == 0)) {
        check_run(*start);
        if (start->kind == Kind::resume)
          compare(s.path, start->state, now_, loaded_parts(config_));
        else
          start->state = RunState();  // a seed's: the run is at its beginning
        return start;
      }
      if (asked < 0 && s.step >= config_.training.steps) {
        start->kind = Kind::complete;
        start->state.step = s.step;
        return start;
      }
      if (weights.empty()) weights = s.path;
      log::info("{} holds weights alone, of which no run can go on: it is passed over.", s.path);
    }
    NEREUS_CHECK(
        kConfig, asked < 0 || weights.empty(),
        "checkpoint.load_step = {}: {} holds weights alone, and no run can go on from them. In "
        "another folder (--job.dump_folder=...) --checkpoint.initial_load_path={} starts a run "
        "from them{}.",
        asked, weights, weights, in_hf(weights));
    NEREUS_CHECK(
        kConfig, weights.empty(),
        "{} has no checkpoint that this run can go on from: {} holds weights alone "
        "(checkpoint.last_save_model_only). To start from them, give the run another folder with "
        "--job.dump_folder=... and name them with --checkpoint.initial_load_path={}{}; to start "
        "anew, move {} away.",
        folder_, weights, weights, in_hf(weights), folder_);
    return std::nullopt;
  }

 private:
  static std::string in_hf(const std::string& path) {
    return is_there(fs::path(path) / kManifestFile) ? "" : " --checkpoint.initial_load_in_hf";
  }

  // Nothing: it was set aside.
  std::optional<CheckpointStart> look_at(const StepFolder& s) {
    CheckpointStart out{.path = s.path, .own = true};
    try {
      switch (s.kind) {
        case StepFolder::Kind::hugging_face:
          out.kind = Kind::hugging_face;
          return out;
        case StepFolder::Kind::incomplete:
          NEREUS_FAIL(kIo, "{}: it has no {}", s.path, kManifestFile);
        case StepFolder::Kind::native:
          break;
      }
      out.manifest = read_manifest(s.path);
      out.state = parse_run_state(out.manifest.run, s.path + "/" + kManifestFile);
      NEREUS_CHECK(kIo, out.state.step == s.step, "{}: it was saved as step {}", s.path,
                   out.state.step);
    } catch (const Error& e) {
      if (e.fault() != Fault::kIo) throw;
      NEREUS_CHECK(kConfig, config_.checkpoint.load_step < 0,
                   "checkpoint.load_step = {}: this checkpoint is damaged: {}\n  Steps that are "
                   "there: {}.",
                   s.step, e.what(), steps_text(all_));
      set_damaged_aside(s.path, true, e.what());
      return std::nullopt;
    }
    out.kind = out.state.weights_only ? Kind::weights : Kind::resume;
    return out;
  }

  // A folder has the checkpoints of one run: one that was copied into it would be gone on from
  // unnoticed. A whole folder may be copied.
  void check_run(const CheckpointStart& start) const {
    if (start.state.lineage.empty() || start.kind != Kind::resume) return;
    for (const StepFolder& s : all_) {
      if (s.kind != StepFolder::Kind::native || s.step >= start.state.step) continue;
      RunState other;
      try {
        other = parse_run_state(read_manifest(s.path).run, s.path);
      } catch (const Error&) {
        continue;  // damaged: found when it is needed
      }
      if (other.lineage.empty()) continue;
      NEREUS_CHECK(
          kConfig,
          other.lineage.front().id == start.state.lineage.front().id &&
              other.fingerprint == start.state.fingerprint,
          "{} is of another run than {} (fingerprints {:016x} and {:016x}, runs {} and {}): a "
          "folder holds the checkpoints of one run. Move away those that are not this run's.",
          start.path, s.path, start.state.fingerprint, other.fingerprint,
          start.state.lineage.front().id, other.lineage.front().id);
      return;
    }
  }

  const JobConfig& config_;
  const RunState& now_;
  const std::string folder_;
  const std::vector<StepFolder> all_;
};

CheckpointStart initial(const JobConfig& config, const RunState& now) {
  const auto& c = config.checkpoint;
  CheckpointStart out;
  if (!c.initial_load_path) {
    if (!c.initial_load_in_hf) return out;
    out.kind = Kind::hugging_face;
    out.path = config.model.hf_assets_path;
    return out;
  }
  out.path = *c.initial_load_path;
  NEREUS_CHECK(kConfig, is_there(out.path),
               "checkpoint.initial_load_path is specified but the path is not valid.\n  "
               "checkpoint.initial_load_path = {}: {}.",
               out.path, what_is_at(out.path));
  if (c.initial_load_in_hf) {
    out.kind = Kind::hugging_face;
    return out;
  }
  const std::vector<StepFolder> steps = step_folders(out.path);
  NEREUS_CHECK(kConfig, is_there(fs::path(out.path) / kManifestFile),
               "checkpoint.initial_load_path = {}: this is no checkpoint, it has no {}.{} Weights "
               "in Hugging "
               "Face's format are read with --checkpoint.initial_load_in_hf.",
               out.path, kManifestFile,
               steps.empty() ? ""
                             : fmt::format(" It has steps {}: name one, {}.", steps_text(steps),
                                           steps.front().path));
  out.manifest = read_manifest(out.path);
  out.state = parse_run_state(out.manifest.run, out.path + "/" + kManifestFile);
  out.kind = c.initial_load_model_only ? Kind::weights : Kind::resume;
  NEREUS_CHECK(
      kConfig, c.initial_load_model_only || !out.state.weights_only,
      "checkpoint.initial_load_model_only = false asks for all of {}, and it holds weights "
      "alone: set it to true.",
      out.path);
  if (out.kind == Kind::resume) {
    compare(out.path, out.state, now, loaded_parts(config));
  } else {
    const ConfigChanges changes = config_changes(out.state, now, {});
    std::vector<std::string> model;
    for (const std::string& line : changes.refused)
      if (line.starts_with("model ")) model.push_back(line);
    if (!model.empty())
      log::warning(
          "The weights of {} are of another model than this run's, and are used all the same:\n  "
          "{}",
          out.path, fmt::join(model, "\n  "));
    out.state = RunState();
  }
  return out;
}

}  // namespace

bool loads_part(const JobConfig& config, const char* part) {
  const Strings& out = config.checkpoint.exclude_from_loading;
  return std::find(out.begin(), out.end(), part) == out.end();
}

LoadedParts loaded_parts(const JobConfig& config) {
  return {.optimizer = loads_part(config, "optimizer"),
          .lr_scheduler = loads_part(config, "lr_scheduler"),
          .dataloader = loads_part(config, "dataloader")};
}

std::string checkpoints_of(const JobConfig& config) {
  return (fs::path(config.job.dump_folder) / config.checkpoint.folder).string();
}

CheckpointStart find_checkpoint_start(const JobConfig& config, const RunState& now) {
  const auto& c = config.checkpoint;
  if (c.enable) {
    std::optional<CheckpointStart> own = OwnFolder(config, now).find();
    if (own) {
      if (c.initial_load_path || c.initial_load_in_hf)
        log::warning(
            "checkpoint.initial_load_path is ignored: the run's own folder has a checkpoint, {}.",
            own->path);
      return std::move(*own);
    }
  }
  return initial(config, now);
}

void check_seen(const CheckpointStart& start, const JobConfig& config, const World& world,
                std::chrono::milliseconds limit) {
  using Clock = std::chrono::steady_clock;
  if (start.kind == Kind::seed || start.kind == Kind::complete) return;
  const bool native = start.kind != Kind::hugging_face;
  std::string missing;  // a file of those weights
  const auto seen = [&] {
    missing.clear();
    if (!native) return is_there(start.path);
    if (!is_there(fs::path(start.path) / kManifestFile)) return false;
    try {
      check_files(start.manifest, start.path);
    } catch (const Error& e) {
      missing = fmt::format(": {}", e.what());
    }
    return missing.empty();
  };
  const auto end = Clock::now() + limit;
  bool is_seen = seen();
  while (!is_seen && Clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    is_seen = seen();
  }
  NEREUS_CHECK(kConfig, is_seen,
               "Rank {} on {} does not see the weights that rank 0 starts from, {}{} (by {}), not "
               "within {:g} s. All ranks start from the same: name a folder that is shared by all "
               "hosts, or copy these weights to the same path on each of them.",
               world.rank(), tcp::host_name(), start.path, missing,
               start.own                             ? "job.dump_folder"
               : config.checkpoint.initial_load_path ? "checkpoint.initial_load_path"
                                                     : "model.hf_assets_path",
               std::chrono::duration<double>(limit).count());
}

void set_damaged_aside(const std::string& path, bool own, const std::string& why) {
  NEREUS_CHECK(kIo, own, "{}", why);
  const std::string now = set_aside(path, "damaged");
  log::warning("{} is incomplete or damaged, and is now {}; the one before it is taken.\n  {}",
               path, now, why);
}

}  // namespace nereus
