#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>

#include "base/check.h"
#include "recipe/jobs.h"
#include "recipe/run_config.h"

namespace nereus::recipe {
namespace {

namespace fs = std::filesystem;

// UTC of "2026-11-28T17:00:00", this machine's time, or of one with "Z" or "+01:00"; "" of others.
std::string utc_of(std::string time) {
  std::replace(time.begin(), time.end(), 'T', ' ');
  std::tm parts{};
  const char* rest = strptime(time.c_str(), "%Y-%m-%d %H:%M:%S", &parts);
  if (!rest) return "";
  if (*rest == '.') rest += 1 + std::strspn(rest + 1, "0123456789");
  parts.tm_isdst = -1;
  if (!*rest) return utc_time(std::mktime(&parts));
  char sign = 0;
  int hours = 0, minutes = 0;
  if (std::sscanf(rest, "%c%2d:%2d", &sign, &hours, &minutes) < 3 && *rest != 'Z') return "";
  const int64_t offset = (sign == '-' ? -60 : 60) * (60 * hours + minutes);
  return utc_time(timegm(&parts) - offset);
}

// What is below an installation's workloads, by folder.
struct Found {
  std::map<std::string, std::map<int64_t, std::string>> configs, logs;  // job -> file
  std::vector<std::string> warnings;
};

void find_runs(const fs::path& folder, Found& found) {
  const auto warn = [&found](const fs::path& path, const std::error_code& why) {
    found.warnings.push_back(fmt::format("{}: cannot be read: {}. Runs in it are not recorded.",
                                         path.string(), why.message()));
  };
  std::error_code error;
  for (fs::directory_iterator it(folder, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    std::error_code unknown;
    const fs::file_type type = it->symlink_status(unknown).type();
    if (type == fs::file_type::none)
      warn(it->path(), unknown);
    else if (type == fs::file_type::directory && name != "outputs")
      find_runs(it->path(), found);
    else if (name.starts_with("llmb-config_") && name.ends_with(".yaml"))
      found.configs[folder.string()].emplace(job_of_config(name), it->path().string());
    else if (const int64_t job = job_of_log(name); job > 0)
      found.logs[folder.string()].emplace(job, it->path().string());
  }
  if (error) warn(folder, error);
}

std::optional<JobRecord> of_config(const std::string& path, const std::string& key,
                                   const Workloads& workloads) {
  const auto workload = workloads.find(key);
  const std::optional<RunConfig> run = read_run_config(path);
  const int64_t id = run ? std::strtoll(run->job_id.c_str(), nullptr, 10) : 0;
  if (id <= 0 || (run->launcher_type.empty() && workload == workloads.end())) return std::nullopt;
  return JobRecord{.id = id,
                   .launcher_type = run->launcher_type.empty() ? workload->second.launcher_type
                                                               : run->launcher_type,
                   .workload = key,
                   .model = run->model_name,
                   .size = run->model_size,
                   .dtype = run->dtype,
                   .scale = run->scale,
                   .profile = run->profile_enabled,
                   .proxy = run->proxy,
                   .log_folder = fs::path(path).parent_path().string(),
                   .config_path = path,
                   .created = utc_of(run->launch_time),
                   .submitted = run->launch_time,
                   .environment = run->env_overrides,
                   .parameters = run->model_overrides};
}

// 2026-11-28T17:00:00 of a log's first line, "" of one without.
std::string first_time(const std::string& path) {
  std::ifstream in(path);
  std::string text(4096, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  constexpr std::string_view kMark = "[titan] ";
  const size_t at = text.find(kMark);
  if (at == std::string::npos) return "";
  std::string time = text.substr(at + kMark.size(), 19);
  std::replace(time.begin(), time.end(), ' ', 'T');
  return utc_of(time).empty() ? "" : time;
}

// A run of `sbatch launch.sh`, by what its log and folders are called:
//
//   MODEL_SIZE_DTYPE_gpusN/job_JOB/log-torchtitan_MODEL_Ngpus_JOB_RESTART.out
JobRecord of_log(int64_t id, const std::string& path, const std::string& key) {
  const fs::path file = path, folder = file.parent_path();
  JobRecord j{.id = id, .launcher_type = "sbatch", .workload = key};
  j.log_folder = folder.string();
  j.submitted = first_time(path);
  j.created = utc_of(j.submitted);
  const std::string name = file.filename().string();
  constexpr std::string_view kBegin = "log-torchtitan_";
  const size_t end = name.find("gpus_"), before = name.rfind('_', end);
  if (name.starts_with(kBegin) && end != std::string::npos && before > kBegin.size()) {
    j.model = name.substr(kBegin.size(), before - kBegin.size());
    j.scale = std::strtoll(name.c_str() + before + 1, nullptr, 10);
  }
  const std::string run = folder.parent_path().filename().string();
  char size[32] = "", dtype[32] = "";
  if (!j.model.empty() && run.starts_with(j.model + "_") &&
      std::sscanf(run.c_str() + j.model.size() + 1, "%31[^_]_%31[^_]_gpus", size, dtype) == 2) {
    j.size = size;
    j.dtype = dtype;
  }
  std::error_code error;
  for (fs::directory_iterator it(folder / "outputs", error);
       !error && it != fs::directory_iterator(); it.increment(error))
    j.profile = j.profile || it->path().filename().string().ends_with("profile_trace");
  return j;
}

}  // namespace

Rebuilt rebuild(const ClusterConfig& config, const Workloads& workloads,
                const Variables& environment, int wait_ms) {
  Rebuilt result;
  result.database = JobDatabase::path_in(config.llmb_install);
  std::unique_ptr<JobDatabase> database;
  try {
    database = std::make_unique<JobDatabase>(result.database, wait_ms);
    database->begin();  // not locked
    database->commit();
    database->jobs();  // not damaged
  } catch (const NewerDatabase&) {
    throw;
  } catch (const Error&) {
    std::error_code error;
    database.reset();
    if (!fs::exists(result.database, error)) throw;
    result.aside = JobDatabase::put_aside(result.database);
    database = std::make_unique<JobDatabase>(result.database, wait_ms);
  }
  const fs::path root = fs::path(config.llmb_install) / "workloads";
  Found found;
  find_runs(root, found);
  result.warnings = found.warnings;
  const auto key_of = [&root](const std::string& path) {
    return fs::path(path).lexically_relative(root).begin()->string();
  };
  std::vector<int64_t> ids;
  database->begin();
  const auto record = [&](const std::optional<JobRecord>& job) {
    ++result.scanned;
    ++(job ? result.imported : result.skipped);
    if (!job) return;
    database->record(*job);
    ids.push_back(job->id);
  };
  for (const auto& [folder, configs] : found.configs)
    for (const auto& [id, path] : configs) record(of_config(path, key_of(path), workloads));
  for (const auto& [folder, logs] : found.logs)
    for (const auto& [id, path] : logs)
      if (!found.configs[folder].contains(id)) record(of_log(id, path, key_of(path)));
  database->commit();
  if (ids.empty()) return result;
  const Refreshed refreshed = refresh(*database, ids, environment);
  if (!refreshed.warning.empty()) result.warnings.push_back(refreshed.warning);
  return result;
}

}  // namespace nereus::recipe
