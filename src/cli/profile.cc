#include "cli/profile.h"

#include <cstdio>
#include <string>
#include <vector>

#include "cli/command.h"
#include "observe/trace_account.h"

namespace nereus {

int run_profile(int argc, char** argv) {
  CLI::App app(
      "Where the time of a trace went, by class of work: GEMMs, attention, memory-bound kernels,\n"
      "copies, communication (exposed and hidden), gaps; each class's share of its limit, and the\n"
      "kernels that took longest. Reads traces of runs with --profiling.enable_profiling, the "
      "last\n"
      "step's kernels_trace.json, and those of PyTorch's profiler; also compressed (.gz).",
      "nereus profile");
  std::vector<std::string> paths;
  int top = 10;
  bool json = false;
  app.add_option("trace", paths, "one trace, or two to compare")->required()->expected(1, 2);
  app.add_option("--top", top, "kernels to list")
      ->check(CLI::Range(0, 100000))
      ->capture_default_str();
  app.add_flag("--json", json, "as one JSON object");
  if (const auto done = parse_command(app, argc, argv)) return *done;
  std::vector<TraceAccount> accounts;
  for (const std::string& path : paths) accounts.push_back(account_of_trace(path));
  std::fputs((json ? account_json(accounts, top) : account_text(accounts, top)).c_str(), stdout);
  return 0;
}

}  // namespace nereus
