#include "report/read_run.h"

#include <algorithm>
#include <filesystem>

#include "base/check.h"
#include "base/files.h"
#include "report/event_files.h"
#include "report/metrics_file.h"
#include "report/run_builder.h"
#include "report/run_files.h"
#include "report/titan_log.h"

namespace nereus::report {
namespace {

namespace fs = std::filesystem;

void read_own(const fs::path& folder, const std::vector<std::string>& metrics, Run& run) {
  RunBuilder builder(run);
  for (const std::string& path : metrics) read_metrics(path, run, builder);
  const auto with = [&](const char* name, auto&& read) {
    if (const fs::path path = folder / name; is_there(path) && !is_folder(path))
      read(path.string());
  };
  with("events.jsonl", [&](const std::string& path) { read_events(path, run); });
  with("experts.jsonl", [&](const std::string& path) { read_experts(path, run); });
  with("resolved_config.toml", [&](const std::string& path) { read_settings(path, run); });
  const std::string snapshots = run.setting("profiling.save_memory_snapshot_folder");
  const bool quoted = snapshots.size() > 2 && snapshots.front() == '"';
  read_memory(
      (folder / (quoted ? snapshots.substr(1, snapshots.size() - 2) : "memory_snapshot")).string(),
      run);
  builder.finish();
}

// *.out, *.log and *.txt in a folder that have step lines, by their times.
bool read_logs(const fs::path& folder, Run& run) {
  std::error_code error;
  std::vector<std::pair<fs::file_time_type, std::string>> logs;
  for (const auto& entry : entries_of(folder, error)) {
    const std::string end = entry.path().extension().string();
    if ((end == ".out" || end == ".log" || end == ".txt") && entry.is_regular_file(error))
      logs.emplace_back(entry.last_write_time(error), entry.path().string());
  }
  std::sort(logs.begin(), logs.end());
  RunBuilder builder(run);
  bool any = false;
  for (const auto& [time, path] : logs) any = read_titan_log(path, run, builder) || any;
  builder.finish();
  return any;
}

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  NEREUS_FAIL(kConfig,
              "{}: {}. `nereus report` reads a run's folder (job.dump_folder, with metrics.jsonl), "
              "a log with step lines as TorchTitan's, or a folder of TensorBoard's event files.",
              path, why);
}

void read_folder(const fs::path& folder, Run& run) {
  const std::string name = folder.string();
  if (const auto metrics = metrics_files(name); !metrics.empty()) {
    read_own(folder, metrics, run);
    if (run.logged.empty() && run.find("validation_loss") == nullptr)
      refuse(name, "metrics.jsonl has no step yet");
    return;
  }
  if (const fs::path outputs = folder / "outputs"; is_folder(outputs)) {  // of a job
    if (const auto metrics = metrics_files(outputs.string()); !metrics.empty())
      return read_own(outputs, metrics, run);
  }
  if (const auto events = event_files(name); !events.empty()) {
    run.source = Source::tensorboard;
    RunBuilder builder(run);
    read_event_files(events, run, builder);
    builder.finish();
    if (run.logged.empty()) refuse(name, "its event files have no scalar");
    return;
  }
  run.source = Source::torchtitan;
  if (!read_logs(folder, run))
    refuse(name, "there is no metrics.jsonl in it, no log with step lines and no event file");
}

}  // namespace

Run read_run(const std::string& path) {
  Run run;
  run.path = path;
  fs::path shown = fs::path(path).lexically_normal();
  if (!shown.has_filename()) shown = shown.parent_path();
  run.name = shown.filename().string();
  if (run.name == "outputs" && shown.has_parent_path() && shown.parent_path().has_filename())
    run.name = shown.parent_path().filename().string();
  if (!is_there(path)) refuse(path, what_is_at(path));
  if (is_folder(path)) {
    read_folder(path, run);
    return run;
  }
  const std::string file = shown.filename().string();
  if (file.ends_with(".jsonl")) {
    RunBuilder builder(run);
    read_metrics(path, run, builder);
    builder.finish();
  } else if (file.starts_with("events.out.tfevents.")) {
    run.source = Source::tensorboard;
    RunBuilder builder(run);
    read_event_files({path}, run, builder);
    builder.finish();
  } else {
    run.source = Source::torchtitan;
    RunBuilder builder(run);
    read_titan_log(path, run, builder);
    builder.finish();
  }
  if (run.logged.empty()) refuse(path, "it has no step line");
  return run;
}

}  // namespace nereus::report
