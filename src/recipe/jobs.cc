#include "recipe/jobs.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <optional>
#include <sstream>

#include "base/check.h"
#include "recipe/command_output.h"

namespace nereus::recipe {
namespace {

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

LiveJobs live_jobs(const std::vector<JobRecord>& jobs, const Variables& environment) {
  LiveJobs live;
  bool waits = false;
  for (const JobRecord& j : jobs) {
    waits = waits || j.state == "PENDING";
    if (j.state != "RUNNING" || j.log_folder.empty()) continue;
    const RunSpeed log = parse_log(j.log_folder, j.id);
    live[j.id] = {.step = log.last_step, .steps = log.steps};
  }
  if (!waits) return live;
  const CommandOutput said = run_command(
      {"squeue", "--me", "--noheader", "--states=PENDING", "--format=%A|%r"}, environment);
  const std::map<int64_t, std::string> reasons = parse_squeue(said.out);
  for (const JobRecord& j : jobs)
    if (const auto it = reasons.find(j.id); it != reasons.end() && j.state == "PENDING")
      live[j.id].reason = it->second;
  return live;
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

std::map<int64_t, std::string> parse_squeue(const std::string& text) {
  std::map<int64_t, std::string> out;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const size_t at = line.find('|');
    if (at == std::string::npos) continue;
    const std::string reason = line.substr(at + 1);
    if (reason != "None") out[std::strtoll(line.c_str(), nullptr, 10)] = reason;
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
    if (is_terminal(j.state) && !j.log_folder.empty() && (j.speed_status.empty() || !ids.empty()))
      speeds.emplace_back(j.id, parse_log(j.log_folder, j.id));
  result.live = live_jobs(jobs, environment);
  if (speeds.empty()) return result;
  database.begin();
  for (const auto& [id, s] : speeds) database.set_speed(id, s);
  database.commit();
  return result;
}

}  // namespace nereus::recipe
