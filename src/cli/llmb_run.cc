#include "cli/llmb_run.h"

#include <cstdio>
#include <cstdlib>
#include <string>

#include "base/check.h"
#include "cli/archive.h"
#include "cli/jobs.h"
#include "cli/list.h"
#include "cli/submit.h"

namespace nereus {
namespace {

constexpr const char* kHelp =
    "llmb-run: launches benchmark workloads; this one is Nereus\n\n"
    "Usage: llmb-run COMMAND [OPTIONS]\n\n"
    "  submit     submit jobs of installed workloads to Slurm\n"
    "  list       list the installed workloads and their scales\n"
    "  jobs       show submitted jobs [list|show|log|refresh|rebuild]\n"
    "  archive    archive the runs of all workloads as one .tar.zst\n\n"
    "`llmb-run COMMAND --help` has the options of a command.\n";

int dispatch(int argc, char** argv) {
  int i = 1;
  while (i < argc && (argv[i] == std::string("-v") || argv[i] == std::string("--verbose"))) ++i;
  const std::string name = i < argc ? argv[i] : "--help";
  if (name == "--version") {
    std::puts("llmb-run of nereus " NEREUS_VERSION);
    return 0;
  }
  if (name == "--help" || name == "-h") {
    std::fputs(kHelp, stdout);
    return 0;
  }
  NEREUS_CHECK(kConfig, !std::getenv("SLURM_JOB_ID"),
               "🚫: `llmb-run` does not currently support running within a SLURM allocation. Please "
               "run this script directly from a login node outside of a SLURM job.");
  struct Command {
    const char* name;
    int (*run)(int, char**);
  };
  for (const Command& c : {Command{"submit", run_submit}, Command{"list", run_list},
                           Command{"jobs", run_jobs}, Command{"archive", run_archive}})
    if (name == c.name) return c.run(argc - i, argv + i);
  NEREUS_CHECK(kConfig, name != "exemplar",
               "exemplar: its suite's DeepSeek-V3 is the one of Megatron-Bridge, which Nereus does "
               "not run. `llmb-run submit` runs the workloads of `llmb-run list`.");
  NEREUS_FAIL(kConfig, "there is no command {}; `llmb-run --help` lists them", name);
}

}  // namespace

int run_llmb_run(int argc, char** argv) {
  try {
    return dispatch(argc, argv);
  } catch (const Error& e) {
    std::fflush(stdout);
    std::fprintf(stderr, "ERROR: %s\n", e.what());
    return e.fault() == Fault::kConfig ? 1 : 2;
  }
}

}  // namespace nereus
