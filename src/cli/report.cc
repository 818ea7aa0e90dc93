#include "cli/report.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>

#include "base/atomic_file.h"
#include "base/check.h"
#include "base/files.h"
#include "base/log.h"
#include "cli/command.h"
#include "report/page.h"
#include "report/read_run.h"
#include "report/report_json.h"
#include "report/text.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;

std::optional<report::Window> window_of(const std::string& text) {
  if (text.empty()) return std::nullopt;
  long long first = 0, last = 0;
  char rest = 0;
  const int n = std::sscanf(text.c_str(), "%lld:%lld%c", &first, &last, &rest);
  NEREUS_CHECK(kConfig, n == 2 && first >= 0 && last >= first,
               "--window {}: must be FIRST:LAST, steps, as 35:44.", text);
  return report::Window{first, last};
}

// Runs of one name are told apart by their paths.
void name_apart(std::vector<report::Run>& runs) {
  std::map<std::string, int> names;
  for (const report::Run& run : runs) ++names[run.name];
  for (report::Run& run : runs)
    if (names[run.name] > 1) run.name = run.path;
}

// Where a page goes that --out says nothing of: into the folder of one run, beside its log.
std::string page_path(const ReportOptions& o) {
  if (!o.out.empty()) return o.out;
  if (o.runs.size() > 1) return "report.html";
  const fs::path run = o.runs[0];
  return (is_folder(run) ? run / "report.html" : fs::path(run.string() + ".html")).string();
}

// With what the desktop opens pages; the report is there all the same when there is none.
void show(const std::string& path) {
  const pid_t child = ::fork();
  if (child == 0) {
    std::freopen("/dev/null", "w", stdout);
    std::freopen("/dev/null", "w", stderr);
    for (const char* program : {"xdg-open", "open", "wslview"})
      ::execlp(program, program, path.c_str(), nullptr);
    ::_exit(127);
  }
  int status = 0;
  const bool ended = child > 0 && ::waitpid(child, &status, 0) == child;
  if (!ended || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
    std::fprintf(stderr, "--open: nothing here opens pages; open %s in a browser.\n", path.c_str());
}

}  // namespace

void ReportOptions::add_to(CLI::App& app) {
  app.add_option("--out", out, "the page's path (default: report.html in the run's folder)");
  app.add_flag("--open", open, "and show it in the browser");
  app.add_flag("--text", text, "lines for the terminal, no page (unless --out)");
  app.add_flag("--json", json, "one JSON object, no page (unless --out)");
  app.add_option("--window", window,
                 "FIRST:LAST, the steps that speeds are stated over (default: after the tenth)");
}

int report_runs(const ReportOptions& o) {
  NEREUS_CHECK(kConfig, !o.text || !o.json, "Use only one of --text and --json.");
  const std::optional<report::Window> window = window_of(o.window);
  std::vector<report::Run> runs;
  for (const std::string& path : o.runs) runs.push_back(report::read_run(path));
  name_apart(runs);
  const std::string text =
      o.json ? report::summary_json(runs, window) + "\n" : report::text(runs, window);
  std::fputs(text.c_str(), stdout);
  if ((o.text || o.json) && o.out.empty() && !o.open) return 0;
  const std::string path = page_path(o);
  const std::error_code error = replace_file(path, report::page(runs, window));
  NEREUS_CHECK(kConfig, !error,
               "{}: the page cannot be written: {}. Choose another place with --out.", path,
               error.message());
  if (!o.json) std::printf("Report: %s\n", path.c_str());
  std::fflush(stdout);
  if (o.open) show(path);
  return 0;
}

int run_report(int argc, char** argv) {
  CLI::App app(
      "A report of runs: curves, speed, experts, memory, events and settings as one page that "
      "needs "
      "no network.\nRuns are run folders (job.dump_folder), logs of TorchTitan or Nereus, or "
      "folders of TensorBoard's event files; several are drawn over each other.",
      "nereus report");
  ReportOptions o;
  app.add_option("run", o.runs, "folders or logs")->required();
  o.add_to(app);
  if (const auto done = parse_command(app, argc, argv)) return *done;
  return report_runs(o);
}

void report_end_of_run(const std::string& folder) {
  const std::string path = folder + "/report.html";
  try {
    const report::Run run = report::read_run(folder);
    if (run.logged.empty()) return;
    const std::error_code error = replace_file(path, report::page({run}));
    NEREUS_CHECK(kIo, !error, "{}: {}", path, error.message());
    log::info("Summary: {}", report::one_line(run));
    log::info("Report: {}", path);
  } catch (const Error& e) {
    if (e.fault() == Fault::kIo) log::warning("The run's report was not written: {}", e.what());
  }
}

}  // namespace nereus
