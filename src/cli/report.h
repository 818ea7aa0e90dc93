// `nereus report`: a page, lines or JSON of runs.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace nereus {

int run_report(int argc, char** argv);

// The same for other commands.
struct ReportOptions {
  std::vector<std::string> runs;  // folders or logs
  std::string out, window;
  bool open = false, text = false, json = false;

  void add_to(CLI::App& app);  // all but the runs
};
int report_runs(const ReportOptions& options);

// At the end of a run: its page in its folder, and two lines of the log with what it came to. What
// goes wrong is one warning; a folder without any step is left as it is.
void report_end_of_run(const std::string& folder);

}  // namespace nereus
