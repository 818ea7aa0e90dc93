// The entry: picks the subcommand, and shows an Error as the user's message and exit code.
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "base/shown_error.h"
#include "base/suggest.h"
#include "cli/archive.h"
#include "cli/bench.h"
#include "cli/checkpoint.h"
#include "cli/convert.h"
#include "cli/doctor.h"
#include "cli/download.h"
#include "cli/eval.h"
#include "cli/generate.h"
#include "cli/jobs.h"
#include "cli/list.h"
#include "cli/llmb_run.h"
#include "cli/plan.h"
#include "cli/probe.h"
#include "cli/profile.h"
#include "cli/recipe.h"
#include "cli/report.h"
#include "cli/setup.h"
#include "cli/submit.h"
#include "cli/tokenize.h"
#include "cli/top.h"
#include "cli/train.h"

namespace {

struct Command {
  const char* name;
  int (*run)(int argc, char** argv);
  const char* help;
};

constexpr Command kCommands[] = {
    {"train", nereus::run_train,
     "train a model; --dry-run describes it, --print-config its settings"},
    {"probe", nereus::run_probe,
     "compute logits, loss, hidden states and gradients of given tokens"},
    {"report", nereus::run_report, "show what a run did; compare several runs"},
    {"top", nereus::run_top, "a run's figures on the terminal while it goes on"},
    {"eval", nereus::run_eval, "compute loss and perplexity of a checkpoint on a data set"},
    {"generate", nereus::run_generate, "generate text with a checkpoint"},
    {"convert", nereus::run_convert, "convert weights to another type or format"},
    {"tokenize", nereus::run_tokenize, "encode and decode text, measure the tokenizer"},
    {"checkpoint", nereus::run_checkpoint, "show, verify or compare checkpoints"},
    {"setup", nereus::run_setup_command,
     "install the recipe: folders, program, tokenizer, data set, cluster_config.yaml"},
    {"download", nereus::run_download_command,
     "download tokenizer, data set or weights from the Hugging Face hub"},
    {"doctor", nereus::run_doctor,
     "check this machine before a run: GPUs, links, libraries, disks"},
    {"submit", nereus::run_submit, "submit jobs of the recipe to Slurm (as llmb-run does)"},
    {"list", nereus::run_list, "list the installed workloads with sizes, data types and scales"},
    {"jobs", nereus::run_jobs, "show submitted jobs: states, speed, logs"},
    {"archive", nereus::run_archive, "archive the runs of all workloads as one .tar.zst"},
    {"recipe", nereus::run_recipe, "run the recipe DeepSeek-V3 671B in a Slurm job (launch.sh)"},
    {"plan", nereus::run_plan, "draw a pipeline's schedule, its idle time and activations"},
    {"profile", nereus::run_profile, "where the time of a trace went; two traces side by side"},
    {"bench", nereus::run_bench,
     "measure ops, a training step and data loading, against stated figures"},
};

void print_usage(std::FILE* out) {
  std::fputs(
      "nereus: pre-trains models of the DeepSeek-V3 family\n\nUsage: nereus COMMAND [OPTIONS]\n\n",
      out);
  for (const Command& c : kCommands) std::fprintf(out, "  %-10s %s\n", c.name, c.help);
  std::fputs("\n`nereus COMMAND --help` has the options of a command.\n", out);
}

int dispatch(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  if (name == "--help" || name == "-h" || name == "help") {
    print_usage(stdout);
    return 0;
  }
  if (name == "--version") {
    std::puts("nereus " NEREUS_VERSION);
    return 0;
  }
  for (const Command& c : kCommands)
    if (name == c.name) return c.run(argc - 1, argv + 1);
  if (name.empty()) {
    print_usage(stderr);
    return 2;
  }
  std::vector<std::string> names;
  for (const Command& c : kCommands) names.emplace_back(c.name);
  const std::string near = nereus::nearest(name, names);
  std::fprintf(stderr, "error: there is no command %s%s%s\n", name.c_str(),
               near.empty() ? "" : "; did you mean ", (near.empty() ? near : near + "?").c_str());
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  // A write beyond a file-size limit or to a closed pipe is an error to report, not a death.
  std::signal(SIGXFSZ, SIG_IGN);
  std::signal(SIGPIPE, SIG_IGN);
  const std::string called = argc > 0 ? argv[0] : "";
  try {
    if (called.substr(called.rfind('/') + 1) == "llmb-run") return nereus::run_llmb_run(argc, argv);
    return dispatch(argc, argv);
  } catch (const nereus::ShownError& e) {
    return e.exit_code();
  } catch (const nereus::Error& e) {
    std::fflush(stdout);
    std::fprintf(stderr, "%s: %s\n",
                 e.fault() == nereus::Fault::kContract ? "internal error" : "error", e.what());
    return e.exit_code();
  } catch (const std::exception& e) {
    std::fflush(stdout);
    std::fprintf(stderr, "internal error: %s\n", e.what());
    return 70;
  }
}
