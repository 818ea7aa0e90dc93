#include "recipe/run_record.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "base/check.h"
#include "base/files.h"
#include "recipe/allocation.h"
#include "recipe/command_output.h"

namespace nereus::recipe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string get(const Variables& all, const std::string& key) {
  const auto it = all.find(key);
  return it == all.end() ? "" : it->second;
}

bool is_number(const std::string& s) {
  return !s.empty() && s.find_first_not_of("0123456789") == std::string::npos;
}

// The folders in a folder; none where it cannot be read.
std::vector<fs::path> folders_in(const fs::path& folder) {
  std::error_code ignored;
  std::vector<fs::path> out;
  for (const fs::directory_entry& e : entries_of(folder, ignored))
    if (is_folder(e.path())) out.push_back(e.path());
  return out;
}

// Has this job written here? By the recipe's names of logs and of what was submitted.
bool has_job(const fs::path& folder, const std::string& job) {
  std::error_code ignored;
  for (const fs::directory_entry& e : entries_of(folder, ignored)) {
    const std::string name = e.path().filename().string();
    if (name == "llmb-config_" + job + ".yaml") return true;
    if (name.starts_with("log-") && name.find("gpus_" + job + "_") != std::string::npos)
      return true;
  }
  return false;
}

// Of the last `--key=value` among words.
std::string setting(const std::vector<std::string>& words, const std::string& key,
                    const std::string& otherwise) {
  const std::string prefix = "--" + key + "=";
  std::string value = otherwise;
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i].starts_with(prefix)) value = words[i].substr(prefix.size());
    if (words[i] == "--" + key && i + 1 < words.size()) value = words[i + 1];
  }
  return value;
}

}  // namespace

RunRecord record_of(const RecipeRun& run, const Variables& variables,
                    const std::vector<std::string>& arguments) {
  RunRecord out;
  out.job = get(variables, "SLURM_JOB_ID");
  for (const auto& [key, value] : variables)
    if (!key.starts_with("SLURM_") && key != "NEREUS_RESUME" && key != "LLMB_EXPERIMENT_DIR")
      out.variables[key] = value;
  out.arguments = arguments;
  for (size_t i = 2; i < run.train.size(); ++i) {  // behind `nereus train`
    const std::string& word = run.train[i];
    const bool place = word.starts_with("--job.") || word.starts_with("--checkpoint.") ||
                       word.starts_with("--profiling.");
    if (!place) out.settings.push_back(word);
  }
  out.steps = std::strtoll(setting(run.train, "training.steps", "0").c_str(), nullptr, 10);
  out.checkpoints = setting(run.train, "checkpoint.folder", "checkpoint");
  return out;
}

void write_record(const std::string& folder, const RunRecord& r) {
  const json text = {
      {"job", r.job},           {"variables", r.variables}, {"arguments", r.arguments},
      {"settings", r.settings}, {"steps", r.steps},         {"checkpoints", r.checkpoints}};
  const std::string path = folder + "/" + kRecordFile;
  const std::error_code error = replace_file(path, text.dump(2) + "\n");
  NEREUS_CHECK(kConfig, !error, "{}: cannot be written: {}. The run's folder must be writable.",
               path, error.message());
}

std::optional<RunRecord> read_record(const std::string& folder) {
  std::ifstream in(folder + "/" + kRecordFile);
  try {
    const json text = json::parse(in);
    return RunRecord{.job = text.at("job"),
                     .variables = text.at("variables"),
                     .arguments = text.at("arguments"),
                     .settings = text.at("settings"),
                     .steps = text.at("steps"),
                     .checkpoints = text.at("checkpoints")};
  } catch (const json::exception&) {
    return std::nullopt;
  }
}

std::string find_run_folder(const std::string& asked, const std::string& install) {
  if (!is_number(asked)) {
    NEREUS_CHECK(kConfig, is_folder(asked),
                 "{}: a run to go on with is the number of a job or the folder of a run: {}.",
                 asked, what_is_at(asked));
    const fs::path path = absolute_path(asked + "/.");
    const std::string folder = path.has_filename() ? path.string() : path.parent_path().string();
    if (fs::path(folder).filename() == "outputs" && !is_there(folder + "/" + kRecordFile))
      return fs::path(folder).parent_path().string();
    return folder;
  }
  NEREUS_CHECK(kConfig, !install.empty(),
               "Job {} is looked for below LLMB_INSTALL, which is not set: set it, or name the "
               "run's folder.",
               asked);
  const std::string workloads = install + "/workloads";
  std::vector<fs::path> others;
  for (const fs::path& workload : folders_in(workloads))
    for (const fs::path& settings : folders_in(workload / "experiments")) {
      if (is_folder(settings / ("job_" + asked))) return (settings / ("job_" + asked)).string();
      others.push_back(settings);
    }
  for (const fs::path& settings : others)
    for (const fs::path& run : folders_in(settings))
      if (has_job(run, asked)) return run.string();
  NEREUS_FAIL(kConfig, "Job {} has no run in {}/*/experiments: name the run's folder in its place.",
              asked, workloads);
}

int64_t newest_checkpoint(const std::string& folder) {
  int64_t newest = -1;
  for (const fs::path& path : folders_in(folder)) {
    const std::string name = path.filename().string();
    if (!name.starts_with("step-") || !is_number(name.substr(5)) || name.size() > 20) continue;
    if (is_there(path / "manifest.json") || is_there(path / "config.json"))
      newest = std::max<int64_t>(newest, std::stoll(name.substr(5)));
  }
  return newest;
}

Resumed resumed(Variables variables, std::vector<std::string> arguments) {
  const std::string asked = get(variables, "NEREUS_RESUME");
  if (asked.empty()) return {std::move(variables), std::move(arguments)};
  const std::string folder = find_run_folder(asked, get(variables, "LLMB_INSTALL"));
  const std::string given = get(variables, "LLMB_EXPERIMENT_DIR");
  NEREUS_CHECK(kConfig, given.empty() || absolute_path(given) == folder,
               "NEREUS_RESUME = {} goes on in {}, and LLMB_EXPERIMENT_DIR = {} names another "
               "folder: unset one of them.",
               asked, folder, given);
  const std::optional<RunRecord> record = read_record(folder);
  const std::string checkpoints =
      folder + "/outputs/" + (record ? record->checkpoints : "checkpoint");
  NEREUS_CHECK(
      kConfig, newest_checkpoint(checkpoints) >= 0,
      "NEREUS_RESUME = {}: {} has no checkpoint to go on from. Start the run anew, without "
      "NEREUS_RESUME and with --checkpoint.enable.",
      asked, checkpoints);
  variables["LLMB_EXPERIMENT_DIR"] = folder;
  if (!record) return {std::move(variables), std::move(arguments)};
  for (const auto& [key, value] : record->variables)
    if (get(variables, key).empty()) variables[key] = value;
  // A job that was put back into the queue has written them down itself.
  if (!record->job.empty() && record->job == get(variables, "SLURM_JOB_ID"))
    arguments = record->arguments;
  else
    arguments.insert(arguments.begin(), record->arguments.begin(), record->arguments.end());
  return {std::move(variables), std::move(arguments)};
}

std::string resume_command(const RecipeRun& run, const Variables& variables,
                           const std::string& script) {
  const std::string job = get(variables, "SLURM_JOB_ID");
  std::error_code ignored;
  for (const fs::directory_entry& e : entries_of(run.experiment, ignored))
    if (e.path().filename() == "llmb-config_" + job + ".yaml")
      return "nereus submit --resume " + job;
  // Nodes and tasks as this job has them.
  const auto number = [&](const char* key) {
    return std::strtoll(get(variables, key).c_str(), nullptr, 10);
  };
  const int64_t nodes = number("SLURM_JOB_NUM_NODES"), tasks = number("SLURM_NTASKS");
  std::vector<std::string> sbatch = sbatch_for(run, variables, script);
  if (nodes > 0 && tasks >= nodes)
    sbatch = {"sbatch", "-N", std::to_string(nodes),
              fmt::format("--ntasks-per-node={}", tasks / nodes), script};
  const bool by_job = fs::path(run.experiment).filename() == "job_" + job;
  return fmt::format("LLMB_INSTALL={} NEREUS_RESUME={} {}", quoted(run.install),
                     by_job ? job : quoted(run.experiment), quoted(sbatch));
}

std::string unfinished_beside(const RecipeRun& run, const Variables& environment,
                              const std::string& how) {
  constexpr size_t kMost = 200;  // runs that are looked at, the newest first
  const RunRecord mine = record_of(run, {}, {});
  std::vector<std::pair<fs::file_time_type, fs::path>> runs;
  const fs::path own = fs::path(run.experiment);
  for (const fs::path& path : folders_in(own.parent_path())) {
    std::error_code error;
    const auto time = fs::last_write_time(path / kRecordFile, error);
    if (!error && path.filename() != own.filename()) runs.emplace_back(time, path);
  }
  std::sort(runs.rbegin(), runs.rend());
  if (runs.size() > kMost) runs.resize(kMost);
  for (const auto& [time, path] : runs) {
    const std::optional<RunRecord> other = read_record(path.string());
    if (!other || other->settings != mine.settings) continue;
    const int64_t step = newest_checkpoint((path / "outputs" / other->checkpoints).string());
    if (step < 0 || step >= other->steps) continue;
    if (is_number(other->job)) {
      const CommandOutput state =
          run_command({"squeue", "--noheader", "--jobs=" + other->job, "--format=%T"}, environment);
      if (state.code == 0 && !state.out.empty()) continue;  // it runs, or waits for its turn
    }
    return fmt::format(
        "a run of the same settings is not finished: {} of {} steps are saved in {}. This job "
        "begins at step 0; {}{} goes on with that run.",
        step, other->steps, path.string(), how, is_number(other->job) ? other->job : path.string());
  }
  return "";
}

}  // namespace nereus::recipe
