#include "cli/jobs.h"

#include <fmt/ranges.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>

#include "base/check.h"
#include "base/files.h"
#include "cli/command.h"
#include "cli/installation.h"
#include "cli/report.h"
#include "recipe/command_output.h"
#include "recipe/jobs.h"
#include "recipe/run_config.h"
#include "report/goodput.h"
#include "report/read_run.h"

namespace nereus {
namespace {

struct Options {
  int64_t id = 0, tail = 200;
  std::vector<int64_t> ids;
  bool follow = false, path = false, folder = false, files = false;
  ReportOptions report = {};
};

recipe::JobDatabase open_database(const recipe::ClusterConfig& config) {
  return recipe::JobDatabase(recipe::JobDatabase::path_in(config.llmb_install));
}

void warn(const std::string& text) {
  if (!text.empty()) std::fprintf(stderr, "WARNING: %s\n", text.c_str());
}

recipe::JobRecord known_job(recipe::JobDatabase& database, int64_t id) {
  const std::optional<recipe::JobRecord> job = database.job(id);
  NEREUS_CHECK(kConfig, job,
               "Job {} was not found in the job history. `nereus jobs` shows those that are there; "
               "`nereus jobs rebuild` looks through the runs' folders.",
               id);
  return *job;
}

// The share of a run's wall time in steps that counted, "93.1%"; "" of a run whose metrics.jsonl is
// not there or larger than `most` bytes.
std::string goodput_of(const recipe::JobRecord& job, uintmax_t most) {
  const std::string folder = job.log_folder + "/outputs";
  std::error_code error;
  const uintmax_t bytes = std::filesystem::file_size(folder + "/metrics.jsonl", error);
  if (job.log_folder.empty() || error || bytes > most) return "";
  try {
    const double share = report::goodput(report::read_run(folder)).share();
    return std::isfinite(share) ? fmt::format("{:.1f}%", 100 * share) : "";
  } catch (const Error&) {
    return "";
  }
}

int list(const Options&) {
  constexpr size_t kMostRuns = 100;
  constexpr uintmax_t kMostBytes = 20'000'000;  // of one: a list is quick
  recipe::JobDatabase database = open_database(read_installation());
  const recipe::Refreshed refreshed = recipe::refresh(database, {}, recipe::process_environment());
  const std::vector<recipe::JobRecord> jobs = database.jobs();
  std::map<int64_t, std::string> goodput;
  for (const recipe::JobRecord& job : jobs) {
    if (goodput.size() == kMostRuns) break;
    if (!recipe::is_terminal(job.state)) continue;
    if (std::string text = goodput_of(job, kMostBytes); !text.empty())
      goodput.emplace(job.id, std::move(text));
  }
  std::puts(recipe::table(jobs, refreshed.live, goodput).c_str());
  std::fflush(stdout);
  warn(refreshed.warning);
  return 0;
}

int show(const Options& o) {
  recipe::JobDatabase database = open_database(read_installation());
  const recipe::Refreshed refreshed = recipe::refresh(database, {}, recipe::process_environment());
  const recipe::JobRecord job = known_job(database, o.id);
  const auto live = refreshed.live.find(o.id);
  const auto submitted = recipe::read_run_config(job.config_path);
  std::puts(recipe::details(job, live == refreshed.live.end() ? recipe::LiveJob{} : live->second,
                            submitted ? submitted->gpu_type : "",
                            goodput_of(job, std::numeric_limits<uintmax_t>::max()))
                .c_str());
  std::fflush(stdout);
  warn(refreshed.warning);
  return 0;
}

// The end of the log. Of a run that did not come to its end the errors too, and where neither says
// anything Slurm's own log, each under its name.
void print_log(const recipe::JobRecord& job, const recipe::RunLog& log, int64_t lines) {
  const std::string text = recipe::tail(log.path, lines);
  if (!text.empty()) std::puts(text.c_str());
  if (!log.restart || recipe::parse_log(job.log_folder, job.id).finished) return;
  bool said = !text.empty();
  const auto add = [&](const std::string& path) {
    const std::string more = is_there(path) ? recipe::tail(path, lines) : "";
    if (!more.empty()) fmt::print("{}==> {} <==\n{}\n", said ? "\n" : "", path, more);
    said = said || !more.empty();
  };
  if (!log.errors.empty()) add(log.errors);
  if (!said) add(fmt::format("{}/slurm-{}.out", job.log_folder, job.id));
}

int log(const Options& o) {
  recipe::JobDatabase database = open_database(read_installation());
  const recipe::JobRecord job = known_job(database, o.id);
  NEREUS_CHECK(
      kConfig, !job.log_folder.empty(),
      "Job {} does not have a log directory recorded. Run `nereus jobs rebuild` to rescan.", o.id);
  NEREUS_CHECK(kConfig, o.path + o.folder + o.files <= 1,
               "Use only one of --path, --dir, or --list.");
  NEREUS_CHECK(kConfig, !o.follow || o.path + o.folder + o.files == 0,
               "--follow can only be used when printing log contents.");
  if (o.folder) {
    std::puts(job.log_folder.c_str());
    return 0;
  }
  const std::vector<recipe::RunLog> logs = recipe::find_logs(job.log_folder, o.id);
  NEREUS_CHECK(kConfig, !logs.empty(), "No log file found for job {} in {}.", o.id, job.log_folder);
  const recipe::RunLog& active = logs.back();
  if (o.files) {
    for (const recipe::RunLog& one : logs) {
      fmt::print("{}: {}{}\n", one.restart ? std::to_string(*one.restart) : "slurm", one.path,
                 one.path == active.path ? " (active)" : "");
      if (!one.errors.empty()) fmt::print("   {} (errors)\n", one.errors);
    }
  } else if (o.path) {
    std::puts(active.path.c_str());
  } else if (o.follow) {
    const std::string lines = std::to_string(o.tail);
    std::fflush(stdout);
    execlp("tail", "tail", "-n", lines.c_str(), "-F", active.path.c_str(),
           active.errors.empty() ? nullptr : active.errors.c_str(), nullptr);
    NEREUS_FAIL(kIo, "tail cannot be started: {}", std::strerror(errno));
  } else {
    print_log(job, active, o.tail);
  }
  return 0;
}

int report_job(const Options& o) {
  recipe::JobDatabase database = open_database(read_installation());
  ReportOptions options = o.report;
  for (const int64_t id : o.ids) {
    const recipe::JobRecord job = known_job(database, id);
    NEREUS_CHECK(kConfig, !job.log_folder.empty(),
                 "Job {} does not have a log directory recorded. Run `nereus jobs rebuild` to "
                 "rescan.",
                 id);
    options.runs.push_back(job.log_folder);
  }
  return report_runs(options);
}

int refresh(const Options& o) {
  recipe::JobDatabase database = open_database(read_installation());
  std::vector<int64_t> missing;
  for (const int64_t id : o.ids)
    if (!database.job(id)) missing.push_back(id);
  NEREUS_CHECK(kConfig, missing.empty(), "Job ID(s) not found in the job history: {}.",
               fmt::join(missing, ", "));
  const recipe::Refreshed refreshed =
      recipe::refresh(database, o.ids, recipe::process_environment());
  NEREUS_CHECK(kIo, refreshed.warning.empty(), "{}", refreshed.warning);
  fmt::print("Refreshed {} job status records.\n", refreshed.count);
  return 0;
}

int rebuild(const Options&) {
  const recipe::ClusterConfig config = read_installation();
  const recipe::Rebuilt r = recipe::rebuild(config, recipe::read_workloads(config.llmb_repo),
                                            recipe::process_environment());
  if (!r.aside.empty()) fmt::print("The unusable database is kept as {}\n", r.aside);
  fmt::print("Job history database: {}\n", r.database);
  fmt::print("Found {} runs: {} recorded, {} skipped.\n", r.scanned, r.imported, r.skipped);
  std::fflush(stdout);
  for (const std::string& w : r.warnings) warn(w);
  return 0;
}

}  // namespace

int run_jobs(int argc, char** argv) {
  CLI::App app(
      "Show submitted jobs: states from Slurm, speed from their logs. Ordered by workload, size, "
      "data\n"
      "type and scale, the latest first",
      "nereus jobs");
  Options o;
  std::function<int(const Options&)> chosen = list;
  const auto add = [&](const char* name, const char* help, int (*body)(const Options&)) {
    CLI::App* command = app.add_subcommand(name, help);
    command->callback([&chosen, body] { chosen = body; });
    return command;
  };
  app.require_subcommand(0, 1);
  add("list", "show all of them (the default)", list);
  add("show", "show all that is known of a job", show)
      ->add_option("job", o.id, "job id")
      ->required();
  CLI::App* logs = add("log", "print the end of a job's log, and of a failed job its errors", log);
  logs->add_option("job", o.id, "job id")->required();
  logs->add_option("--tail", o.tail, "lines to print")->capture_default_str();
  logs->add_flag("-f,--follow", o.follow, "keep printing what is added");
  logs->add_flag("--path", o.path, "print only its path");
  logs->add_flag("--dir", o.folder, "print only the run's folder");
  logs->add_flag("--list", o.files, "list the logs and error files of all restarts");
  CLI::App* reports = add("report", "a page of what jobs did, as nereus report", report_job);
  reports->add_option("jobs", o.ids, "job ids")->required();
  o.report.add_to(*reports);
  add("refresh", "ask Slurm again and read the logs again", refresh)
      ->add_option("jobs", o.ids, "job ids")
      ->required();
  add("rebuild", "record every run below $LLMB_INSTALL/workloads", rebuild);
  if (const auto done = parse_command(app, argc, argv)) return *done;
  return chosen(o);
}

}  // namespace nereus
