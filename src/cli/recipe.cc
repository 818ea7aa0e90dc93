#include "cli/recipe.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/assets.h"
#include "base/check.h"
#include "base/files.h"
#include "base/text.h"
#include "cli/recipe_job.h"
#include "cli/run_facts.h"
#include "recipe/allocation.h"
#include "recipe/cluster_config.h"
#include "recipe/command_output.h"
#include "recipe/recipe_run.h"
#include "recipe/run_record.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;

// Is this program of a package (scripts/package.sh)?
#ifdef NEREUS_RELOCATABLE
constexpr bool kRelocatable = true;
#else
constexpr bool kRelocatable = false;
#endif

constexpr const char* kHelp =
    "Runs the recipe \"DeepSeek-V3 671B with TorchTitan\": what its launch.sh calls in a batch "
    "job.\n\n"
    "Usage: nereus recipe launch [--dry-run] --recipe FOLDER [-- ARGUMENTS of nereus train]\n\n"
    "  --recipe FOLDER  where deepseek_v3_671b.toml is\n"
    "  --dry-run        print the settings and the command, and stop\n"
    "  --force          start a run that does not fit into its GPUs\n"
    "                   (both may stand behind -- too: launch.sh --force)\n\n"
    "Reads the recipe's variables (GPU_TYPE, JOB_TOTAL_GPUS, LLMB_INSTALL, ...; docs/recipe.md) "
    "and\n"
    "NEREUS_PRESET: original, newer or ours. Outside of a job NEREUS_SUBMIT=true submits "
    "launch.sh,\n"
    "with as many nodes and tasks as the run needs. NEREUS_REQUEUE=true: a run that Slurm stops "
    "is\n"
    "requeued and goes on; NEREUS_RESUME=JOB or FOLDER goes on with an earlier one.\n";

// What the installation's file says of this cluster's GPUs; launch.sh works without one too.
std::map<std::string, double> cluster_gpu_memory() {
  const char* const install = std::getenv("LLMB_INSTALL");
  const std::string file = std::string(install ? install : "") + "/cluster_config.yaml";
  if (install == nullptr || !is_there(file)) return {};
  return recipe::read_cluster_config(file).gpu_memory_gib;
}

// NEREUS_DOCTOR: 0, or the exit code with which the job ends.
int examine_nodes(const std::vector<std::string>& command) {
  constexpr int kSeconds = 900;
  const recipe::CommandOutput r =
      recipe::run_command(command, recipe::process_environment(), "", kSeconds);
  std::printf("%s", r.out.c_str());
  std::fflush(stdout);
  const std::string said = r.err.empty() ? "" : "srun said:\n" + r.err + "\n";
  if (r.code == 0) {
    std::fputs(said.c_str(), stderr);
    return 0;
  }
  std::fprintf(
      stderr,
      "error: NEREUS_DOCTOR: the check of the nodes ended with exit code %d; what is wrong "
      "is above.\n%s  Leave a node out with sbatch --exclude, or start without "
      "NEREUS_DOCTOR.\n",
      r.code, said.c_str());
  return r.code;
}

// What NEREUS_REQUEUE and NEREUS_RESUME need of the run.
void check_resumable(const recipe::RecipeRun& run, const recipe::RunFacts& facts,
                     const recipe::Variables& variables) {
  const bool resumes =
      variables.contains("NEREUS_RESUME") && !variables.at("NEREUS_RESUME").empty();
  NEREUS_CHECK(kConfig, facts.saves || (!run.requeues && !resumes),
               "{} needs checkpoints, and the arguments turn them off: leave out "
               "--checkpoint.no_enable and --checkpoint.load_only.",
               resumes ? "NEREUS_RESUME" : "NEREUS_REQUEUE=true");
}

// A run that begins at step 0 beside one that need not.
void warn_of_unfinished(const recipe::RecipeRun& run, const recipe::RunRecord& record) {
  if (recipe::newest_checkpoint(run.outputs + "/" + record.checkpoints) >= 0) return;
  const std::string other =
      recipe::unfinished_beside(run, recipe::process_environment(), "NEREUS_RESUME=");
  if (!other.empty()) std::fprintf(stderr, "WARNING: %s\n", other.c_str());
}

[[noreturn]] void become(const std::vector<std::string>& command) {
  std::vector<char*> words;
  for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  std::fflush(stdout);
  execvp(words[0], words.data());
  NEREUS_FAIL(kConfig, "{}: cannot be started: {}. launch.sh runs inside a Slurm job: sbatch it.",
              command[0], std::strerror(errno));
}

}  // namespace

int run_recipe(int argc, char** argv) {
  bool dry_run = false, force = false, help = argc < 2;
  std::string folder;
  std::vector<std::string> arguments;
  bool of_train = false;  // behind --
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--dry-run") {
      dry_run = true;
    } else if (word == "--force") {
      force = true;
    } else if (of_train) {
      arguments.push_back(word);
    } else if (word == "--") {
      of_train = true;
    } else if (word == "--help" || word == "-h") {
      help = true;
    } else if (word == "--recipe" && i + 1 < argc) {
      folder = argv[++i];
    } else {
      NEREUS_CHECK(kConfig, word == "launch" && i == 1,
                   "nereus recipe: {} is not known; `nereus recipe --help` has the options", word);
    }
  }
  if (help) {
    std::fputs(kHelp, stdout);
    return 0;
  }
  NEREUS_CHECK(kConfig, is_there(folder + "/deepseek_v3_671b.toml"),
               "--recipe {}: it has no deepseek_v3_671b.toml", folder.empty() ? "FOLDER" : folder);
  const std::string home = absolute_path(folder), script = home + "/launch.sh";
  const auto [variables, all_arguments] =
      recipe::resumed(recipe::recipe_variables(), arguments);  // NEREUS_RESUME
  recipe::RecipeRun run = recipe::resolve_run(variables, program_path(), home, all_arguments);
  const char* const asked = std::getenv("NEREUS_SUBMIT");
  const bool queues = !variables.contains("SLURM_JOB_ID") && asked && lower(asked) == "true";
  std::printf("Nereus, preset %s, %s x %lld, %s\n", run.preset.c_str(), run.gpu_type.c_str(),
              static_cast<long long>(run.gpus), run.dtype.c_str());
  for (const std::string& s : run.settings) std::printf("  %s\n", s.c_str());
  std::fflush(stdout);
  const recipe::RunFacts facts = run_check(cluster_gpu_memory())(run);
  for (const std::string& line : facts.lines) std::printf("  %s\n", line.c_str());
  std::fflush(stdout);
  const recipe::Purpose purpose = dry_run  ? recipe::Purpose::look
                                  : queues ? recipe::Purpose::queue
                                           : recipe::Purpose::launch;
  recipe::check_allocation(run, variables, script);
  if (!kRelocatable && !run.image.empty())
    std::fprintf(
        stderr,
        "WARNING: RUN_CONF_IMAGE: this program needs this machine's libraries in the image. "
        "One that needs none comes with `make package` (docs/recipe.md, Containers).\n");
  for (const std::string& w : run.warnings) std::fprintf(stderr, "WARNING: %s\n", w.c_str());
  for (const std::string& w : hold(facts, run, purpose, force))
    std::fprintf(stderr, "WARNING: %s\n", w.c_str());
  check_resumable(run, facts, variables);
  const recipe::RunRecord record = recipe::record_of(run, variables, all_arguments);
  warn_of_unfinished(run, record);
  if (queues) {
    std::vector<std::string> sbatch = recipe::sbatch_for(run, variables, script);
    if (force) sbatch.push_back("--force");
    sbatch.insert(sbatch.end(), arguments.begin(), arguments.end());
    std::printf("%s\n", recipe::quoted(sbatch).c_str());
    // Slurm runs a copy of launch.sh, which finds the recipe by this.
    setenv("LLMB_REPO", fs::path(home).parent_path().parent_path().c_str(), 0);
    if (!dry_run) become(sbatch);
  }
  const bool in_job = variables.contains("SLURM_JOB_ID");
  const std::string resume = recipe::resume_command(run, variables, script);
  if (in_job && !dry_run)
    run.train.insert(run.train.begin() + 2,
                     {"--job.resume_command=" + resume,
                      fmt::format("--checkpoint.stop_lead_seconds={}", kSignalLead)});
  if (!run.doctor.empty()) std::printf("%s\n", recipe::quoted(run.doctor).c_str());
  std::printf("%s\n", recipe::quoted(run.command()).c_str());
  if (dry_run) return 0;
  std::error_code error;
  fs::create_directories(run.outputs, error);
  NEREUS_CHECK(
      kConfig, !error,
      "{}: cannot be made: {}. Set LLMB_EXPERIMENT_DIR or LLMB_INSTALL to a place that can "
      "be written to.",
      run.outputs, error.message());
  if (!run.doctor.empty())
    if (const int code = examine_nodes(run.doctor)) return code;
  if (!in_job) become(run.command());
  recipe::write_record(run.experiment, record);
  return run_job({.run = run,
                  .id = variables.at("SLURM_JOB_ID"),
                  .checkpoints = run.outputs + "/" + record.checkpoints,
                  .steps = record.steps,
                  .resume_command = resume});
}

}  // namespace nereus
