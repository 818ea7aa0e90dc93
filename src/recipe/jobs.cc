#include "recipe/jobs.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <optional>
#include <set>
#include <sstream>

#include "base/check.h"
#include "recipe/command_output.h"
#include "recipe/run_config.h"

namespace nereus::recipe {
namespace {

namespace fs = std::filesystem;

constexpr size_t kChunk = 200;  // jobs of one question to sacct
// Accounting lags behind sbatch: a job that is younger is not gone because sacct does not know it.
constexpr int64_t kGraceSeconds = 300;

struct Answers {
  std::map<int64_t, JobState> states;
  bool from_accounting = false, reached = false;
  std::string error;
};

Answers ask_slurm(const std::vector<int64_t>& ids, const Variables& environment) {
  Answers out;
  for (size_t begin = 0; begin < ids.size(); begin += kChunk) {
    const std::vector<int64_t> chunk(
        ids.begin() + static_cast<std::ptrdiff_t>(begin),
        ids.begin() + static_cast<std::ptrdiff_t>(std::min(begin + kChunk, ids.size())));
    const CommandOutput said = run_command(
        {"sacct", "-X", "-P", "--noheader", fmt::format("--jobs={}", fmt::join(chunk, ",")),
         "--format=JobIDRaw,State,Elapsed,Submit,NodeList,ExitCode"},
        environment);
    if (said.code != 0) {
      out.error = said.err.empty() ? fmt::format("sacct ended with {}", said.code) : said.err;
      break;
    }
    out.states.merge(parse_sacct(said.out));
  }
  out.from_accounting = out.reached = out.error.empty();
  // A new job is not in the accounting for some seconds.
  if (out.from_accounting && out.states.size() == ids.size()) return out;
  const CommandOutput said = run_command({"scontrol", "show", "job", "-o"}, environment);
  if (said.code == 0) {
    out.reached = true;
    out.states.merge(parse_scontrol(said.out));
  } else if (!out.error.empty() && !said.err.empty()) {
    out.error += "; " + said.err;
  }
  return out;
}

void set_states(JobDatabase& database, const std::vector<int64_t>& ids, const Answers& answers,
                Refreshed& result) {
  const std::string old = utc_time(std::time(nullptr) - kGraceSeconds);
  database.begin();
  for (const int64_t id : ids) {
    const auto known = answers.states.find(id);
    if (known != answers.states.end()) {
      database.set_state(id, known->second);
      ++result.count;
      continue;
    }
    const std::optional<JobRecord> job = database.job(id);
    if (!job) continue;
    // Without accounting Slurm forgets a job minutes after its end; its log tells whether it came
    // to it.
    if (!answers.from_accounting && !job->log_folder.empty() &&
        parse_log(job->log_folder, id).finished) {
      database.set_state(id, {.state = "COMPLETED"});
      ++result.count;
    } else if (answers.reached && !is_terminal(job->state) && job->created < old) {
      database.set_state(id, {.state = "PURGED"});
      ++result.count;
    }
  }
  database.commit();
}

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

void find_run_configs(const fs::path& folder, std::vector<std::string>& paths,
                      std::vector<std::string>& warnings) {
  const auto warn = [&warnings](const fs::path& path, const std::error_code& why) {
    warnings.push_back(fmt::format("{}: cannot be read: {}. Runs in it are not recorded.",
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
      find_run_configs(it->path(), paths, warnings);
    else if (name.starts_with("llmb-config_") && name.ends_with(".yaml"))
      paths.push_back(it->path().string());
  }
  if (error) warn(folder, error);
}

std::string short_time(std::string time) {
  std::replace(time.begin(), time.end(), 'T', ' ');
  return time.substr(0, 16);
}

std::string number(const std::optional<double>& x) { return x ? fmt::format("{:.2f}", *x) : ""; }

std::string workload_of(const JobRecord& j) {
  const std::string name = j.workload.empty() ? j.model : j.workload;
  return name.empty() || j.size.empty() ? name + j.size : name + "_" + j.size;
}

std::string state_of(const JobRecord& j) {
  return j.state.starts_with("CANCELLED") ? "CANCELLED" : j.state;
}

std::string speed(const JobRecord& j, const std::optional<double>& x) {
  return j.speed_status == "invalid_grad_norm" ? "Invalid" : number(x);
}

}  // namespace

std::map<int64_t, JobState> parse_sacct(const std::string& text) {
  std::map<int64_t, JobState> out;
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) {
    std::vector<std::string> f;
    std::istringstream fields(line);
    for (std::string one; std::getline(fields, one, '|');) f.push_back(one);
    if (f.size() < 6) continue;
    const int64_t id = std::strtoll(f[0].c_str(), nullptr, 10);
    if (id > 0)
      out[id] = {
          .state = f[1], .elapsed = f[2], .submitted = f[3], .nodes = f[4], .exit_code = f[5]};
  }
  return out;
}

std::map<int64_t, JobState> parse_scontrol(const std::string& text) {
  std::map<int64_t, JobState> out;
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) {
    const auto value = [&line](const std::string& key) {
      const size_t at = (" " + line).find(" " + key + "=");
      if (at == std::string::npos) return std::string();
      const size_t begin = at + key.size() + 1;
      const std::string found = line.substr(begin, line.find(' ', begin) - begin);
      return found == "(null)" || found == "Unknown" ? "" : found;
    };
    const int64_t id = std::strtoll(value("JobId").c_str(), nullptr, 10);
    if (id > 0)
      out[id] = {.state = value("JobState"),
                 .elapsed = value("RunTime"),
                 .submitted = value("SubmitTime"),
                 .nodes = value("NodeList"),
                 .exit_code = value("ExitCode")};
  }
  return out;
}

Refreshed refresh(JobDatabase& database, const std::vector<int64_t>& ids,
                  const Variables& environment) {
  Refreshed result;
  std::vector<int64_t> open = ids;
  if (ids.empty())
    for (const JobRecord& j : database.unsettled())
      if (!is_terminal(j.state)) open.push_back(j.id);
  if (!open.empty()) {
    const Answers answers = ask_slurm(open, environment);
    set_states(database, open, answers, result);
    if (!answers.reached)
      result.warning = fmt::format("sacct unavailable; status may be stale ({}).", answers.error);
  }
  std::vector<JobRecord> jobs;
  if (ids.empty()) jobs = database.unsettled();
  for (const int64_t id : ids)
    if (const std::optional<JobRecord> j = database.job(id)) jobs.push_back(*j);
  std::vector<std::pair<int64_t, RunSpeed>> speeds;
  for (const JobRecord& j : jobs)
    if (is_terminal(j.state) && !j.log_folder.empty() && !j.config_path.empty() &&
        (j.speed_status.empty() || !ids.empty()))
      speeds.emplace_back(j.id, parse_log(j.log_folder, j.id));
  if (speeds.empty()) return result;
  database.begin();
  for (const auto& [id, s] : speeds) database.set_speed(id, s);
  database.commit();
  return result;
}

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
  std::vector<std::string> paths;
  find_run_configs(root, paths, result.warnings);
  std::sort(paths.begin(), paths.end());
  std::vector<int64_t> ids;
  database->begin();
  for (const std::string& path : paths) {
    ++result.scanned;
    const std::string key = fs::path(path).lexically_relative(root).begin()->string();
    const auto workload = workloads.find(key);
    const std::optional<RunConfig> run = read_run_config(path);
    const int64_t id = run ? std::strtoll(run->job_id.c_str(), nullptr, 10) : 0;
    if (id <= 0 || (run->launcher_type.empty() && workload == workloads.end())) {
      ++result.skipped;
      continue;
    }
    database->record({.id = id,
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
                      .parameters = run->model_overrides});
    ids.push_back(id);
    ++result.imported;
  }
  database->commit();
  if (ids.empty()) return result;
  const Refreshed refreshed = refresh(*database, ids, environment);
  if (!refreshed.warning.empty()) result.warnings.push_back(refreshed.warning);
  return result;
}

std::string table(const std::vector<JobRecord>& jobs) {
  if (jobs.empty())
    return "No jobs found. Run `nereus jobs rebuild` to scan existing llmb-config files.";
  constexpr size_t kCells = 11;
  std::vector<std::vector<std::string>> rows = {{"Workload", "DType", "Scale", "Job ID", "Profile",
                                                 "Submit Time", "Slurm Status", "Elapsed", "s/iter",
                                                 "TFLOPS/GPU", "Tokens/s/GPU"}};
  for (const JobRecord& j : jobs)
    rows.push_back({workload_of(j), j.dtype, j.scale ? std::to_string(j.scale) : "",
                    std::to_string(j.id), j.profile ? "Yes" : "-", short_time(j.submitted),
                    state_of(j), j.elapsed, speed(j, j.step_seconds), speed(j, j.tflops_per_gpu),
                    speed(j, j.tokens_per_second_per_gpu)});
  std::vector<size_t> width(kCells);
  for (const auto& row : rows)
    for (size_t i = 0; i < kCells; ++i) width[i] = std::max(width[i], row[i].size());
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < kCells; ++i) {
      const bool right = i == 2 || i == 3 || i > 7;
      line += right ? fmt::format("{:>{}}  ", row[i], width[i])
                    : fmt::format("{:<{}}  ", row[i], width[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  out.pop_back();
  return out;
}

std::string details(const JobRecord& j) {
  const std::string status =
      j.speed_status == "invalid_grad_norm" ? "invalid: grad_norm=nan" : j.speed_status;
  std::string out;
  for (const auto& [label, value] :
       {std::pair<const char*, std::string>{"Job ID", std::to_string(j.id)},
        {"Launcher", j.launcher_type},
        {"Workload", j.workload},
        {"Model", j.model + "_" + j.size},
        {"DType", j.dtype},
        {"Scale", j.scale ? std::to_string(j.scale) : ""},
        {"Profile", j.profile ? "Yes" : "-"},
        {"Proxy", j.proxy ? "Yes" : "-"},
        {"Status", j.state},
        {"Elapsed", j.elapsed},
        {"Perf Parse", status},
        {"s/iter", number(j.step_seconds)},
        {"TFLOPS/GPU", number(j.tflops_per_gpu)},
        {"Tokens/s/GPU", number(j.tokens_per_second_per_gpu)},
        {"Submit Time", short_time(j.submitted)},
        {"Node List", j.nodes},
        {"Exit Code", j.exit_code},
        {"Log Dir", j.log_folder}})
    out += fmt::format("{:<12} : {}\n", label, value);
  out.pop_back();
  return out;
}

}  // namespace nereus::recipe
