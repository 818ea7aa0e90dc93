#include "cli/submit.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "base/check.h"
#include "cli/command.h"
#include "cli/installation.h"
#include "cli/run_facts.h"
#include "cli/submit_resume.h"
#include "recipe/command_output.h"
#include "recipe/job_database.h"
#include "recipe/submit.h"

namespace nereus {
namespace {

using recipe::Task;

void warn(const std::string& text) { std::fprintf(stderr, "WARNING: %s\n", text.c_str()); }

// The job is in the queue whatever becomes of its record.
void record(const recipe::ClusterConfig& config, const recipe::Workload& workload, const Task& t,
            const recipe::SubmittedJob& job) {
  try {
    recipe::JobDatabase(recipe::JobDatabase::path_in(config.llmb_install))
        .record({.id = job.id,
                 .launcher_type = workload.launcher_type,
                 .workload = t.workload,
                 .model = workload.model,
                 .size = t.size,
                 .dtype = t.dtype,
                 .scale = t.scale,
                 .profile = t.profile,
                 .proxy = t.proxy,
                 .log_folder = job.folder,
                 .config_path = job.config,
                 .submitted = job.launch_time,
                 .environment = t.environment,
                 .parameters = t.parameters});
  } catch (const Error& e) {
    warn(fmt::format("job {} was submitted, but not recorded: {}", job.id, e.what()));
  }
}

struct Options {
  recipe::TaskRequest request;
  recipe::SlurmOptions slurm;
  std::vector<std::string> environment;
  std::vector<std::string> mbridge;
  std::string resume;
  int64_t chain = 1;
  bool dry_run = false, dump_environment = false;
};

void add_options(CLI::App& app, Options& o) {
  recipe::TaskRequest& r = o.request;
  app.add_option("-w,--workload", r.workload,
                 "workloads, separated by commas; a size may follow the name (NAME_671b)");
  app.add_option("-s,--model-size", r.size, "model size, with one --workload");
  app.add_option("-d,--dtype", r.dtype, "data types, separated by commas (default all)");
  app.add_option("--scale", r.scale, "numbers of GPUs, separated by commas");
  app.add_option("--max-scale", r.max_scale,
                 "all listed scales up to N, and powers of two above them");
  app.add_flag("--min-scale", r.min_scale, "the smallest listed scale");
  app.add_flag("--exact-scales", r.exact_scales, "with --max-scale: only the listed scales");
  app.add_option("-f,--file", r.file, "read tasks from a .yaml or .txt file");
  app.add_option("-r,--repeats", r.repeats, "submit each task N times");
  app.add_option("--resume", o.resume,
                 "go on with an earlier run: the number of its job, or its folder")
      ->excludes("-w", "-s", "-d", "--scale", "--max-scale", "--min-scale", "-f", "-r");
  app.add_option("--chain", o.chain,
                 "N jobs for a run: each starts when the one before has ended, and goes on")
      ->check(CLI::Range(1, 1000));
  app.add_flag("-p,--profile", r.profile, "record a profile");
  app.add_flag("--proxy", r.proxy, "submit at the workload's proxy scales");
  app.add_flag("--dry-run", o.dry_run, "print the jobs and their sbatch commands; submit nothing");
  app.add_flag("--force", r.force, "submit one task whatever its data type, scale and memory");
  app.add_flag("--dump-env", o.dump_environment, "ignored (Megatron-Bridge only)");
  app.add_option("--mbridge-arg", o.mbridge, "ignored (Megatron-Bridge only); repeatable")
      ->expected(1)
      ->take_all();
  app.add_option("--nice", o.slurm.nice, "passed to sbatch");
  app.add_option("--nodelist", o.slurm.nodelist, "passed to sbatch");
  app.add_option("--exclude", o.slurm.exclude, "passed to sbatch");
  app.add_option("--reservation", o.slurm.reservation, "passed to sbatch");
  app.add_option("--segment", o.slurm.segment,
                 "passed to sbatch (default on GB200: chosen from the number of nodes)");
  // One value each, so that options may be repeated and nothing else is taken for a value.
  app.add_option("--slurm-arg", o.slurm.more,
                 "any other option of sbatch, as key=value or flag; repeatable")
      ->expected(1)
      ->take_all();
  app.add_option("--env", o.environment, "KEY=value in the job's environment; repeatable")
      ->expected(1)
      ->take_all();
  app.footer("Arguments after -- go to `nereus train`: nereus submit ... -- --metrics.log_freq=1");
}

// The variables that the jobs get and the command lines, so that a user sees what would run.
void print_jobs(const recipe::Submitter& submitter, const Task& t, int64_t chain,
                const recipe::Submitter::Place& place) {
  const std::string folder =
      place.folder.empty() ? submitter.folder(t, submitter.now()) : place.folder;
  std::printf("      variables of the job:\n");
  for (const auto& [key, value] : recipe::masked(submitter.variables(t, folder)))
    std::printf("        %s=%s\n", key.c_str(), recipe::quoted(value).c_str());
  std::string after = place.after > 0 ? std::to_string(place.after) : "";
  for (int64_t n = 0; n < chain; ++n) {
    std::printf("      command:\n        ");
    // An option a line, with its value.
    const std::vector<std::string> words = submitter.command(t, folder, after);
    for (size_t i = 0; i < words.size(); ++i) {
      const bool value = i > 0 && words[i - 1].size() == 2 && words[i - 1][0] == '-';
      if (i > 0) std::printf("%s", value ? " " : " \\\n          ");
      std::printf("%s", recipe::quoted(words[i]).c_str());
    }
    std::printf("\n");
    after = "JOB_BEFORE";
  }
}

// The jobs of a task, in the queue one after the other; false when one was not submitted.
bool submit_jobs(const recipe::Submitter& submitter, const recipe::ClusterConfig& config,
                 const recipe::Workload& workload, const Task& t, int64_t chain,
                 recipe::Submitter::Place place) {
  std::fflush(stdout);
  try {
    for (int64_t i = 0; i < chain; ++i) {
      const recipe::SubmittedJob job = submitter.submit(t, place);
      std::string what = fmt::format("jobid={} workdir={}", job.id, job.folder);
      if (place.after > 0) what += fmt::format(" after={}", place.after);
      std::puts(recipe::describe(t, "SUBMITTED: ", what).c_str());
      for (const std::string& w : job.warnings) warn(w);
      record(config, workload, t, job);
      place = {job.folder, job.id};
    }
    return true;
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n",
                 recipe::describe(t, "ERROR: ", std::string("error=") + e.what()).c_str());
    return false;
  }
}

// Of several tasks the message says which it is.
recipe::Submitter::Checked check(const recipe::Submitter& submitter, const Task& t,
                                 recipe::Purpose purpose, bool several) {
  try {
    return submitter.check(t, purpose);
  } catch (const Error& e) {
    if (!several) throw;
    throw Error(e.fault(), fmt::format("{}_{}, {}, {} GPUs: {}", t.workload, t.size, t.dtype,
                                       t.scale, e.what()));
  }
}

}  // namespace

int run_submit(int argc, char** argv) {
  char** const end = argv + argc;
  char** const dashes = std::find(argv, end, std::string("--"));
  std::vector<std::string> arguments(dashes == end ? end : dashes + 1, end);

  CLI::App app("Submit jobs of installed workloads to Slurm", "nereus submit");
  Options o;
  add_options(app, o);
  if (const auto done = parse_command(app, static_cast<int>(dashes - argv), argv)) return *done;
  const char* inside = std::getenv("SLURM_JOB_ID");
  NEREUS_CHECK(kConfig, !inside,
               "nereus submit does not run within a Slurm allocation (SLURM_JOB_ID = {}), whose "
               "settings sbatch would take over: run it on a login node, outside of a job.",
               inside);
  o.request.environment = recipe::parse_environment(o.environment);
  o.slurm.words();  // its errors
  const recipe::ClusterConfig config = read_installation();
  const recipe::Workloads workloads = recipe::read_workloads(config.llmb_repo);

  recipe::TaskList list;
  recipe::Submitter::Place place;
  if (o.resume.empty()) {
    list = recipe::make_tasks(o.request, workloads, config);
  } else {
    ResumedRun run = resumed_run(o.resume, config, recipe::process_environment());
    arguments.insert(arguments.begin(), run.arguments.begin(), run.arguments.end());
    for (const auto& [key, value] : o.request.environment) run.task.environment[key] = value;
    run.task.profile = run.task.profile || o.request.profile;
    list = {.tasks = {run.task}, .warnings = run.warnings, .dropped = ""};
    place = {run.folder, run.queued};
  }
  const bool resumes = !o.resume.empty() || o.chain > 1;
  const std::string saves = "--checkpoint.enable";
  if (resumes && std::find(arguments.begin(), arguments.end(), saves) == arguments.end())
    arguments.insert(arguments.begin(), saves);
  if (!list.dropped.empty()) std::fprintf(stderr, "ERROR: %s\n", list.dropped.c_str());
  std::vector<std::string> warnings = list.warnings;
  if (o.dump_environment) warnings.push_back("--dump-env is ignored: Megatron-Bridge only.");
  if (!o.mbridge.empty()) warnings.push_back("--mbridge-arg is ignored: Megatron-Bridge only.");
  recipe::Submitter submitter(config, workloads, recipe::process_environment(), program_path(),
                              o.slurm, arguments);
  submitter.run_check = run_check(config.gpu_memory_gib);
  submitter.force = o.request.force;
  for (Task& t : list.tasks) t.profile = submitter.profiles(t);
  submitter.resumes = !o.resume.empty();
  std::vector<std::vector<std::string>> facts;  // by task
  for (const Task& t : list.tasks) {
    recipe::Submitter::Checked checked =
        check(submitter, t, o.dry_run ? recipe::Purpose::look : recipe::Purpose::queue,
              list.tasks.size() > 1);
    facts.push_back(std::move(checked.facts));
    for (const std::string& w : checked.warnings)
      if (std::find(warnings.begin(), warnings.end(), w) == warnings.end()) warnings.push_back(w);
  }
  for (const std::string& w : warnings) warn(w);

  std::printf("Jobs (%zu):\n", list.tasks.size());
  for (size_t i = 0; i < list.tasks.size(); ++i) {
    std::puts(recipe::describe(list.tasks[i], "  - ", "").c_str());
    if (i == 0 || facts[i] != facts[i - 1])
      for (const std::string& line : facts[i]) std::printf("      %s\n", line.c_str());
    if (o.dry_run) print_jobs(submitter, list.tasks[i], o.chain, place);
  }
  if (o.dry_run) {
    std::puts("Dry run: nothing was submitted.");
    return 0;
  }
  size_t failed = 0;
  for (const Task& t : list.tasks)
    failed += submit_jobs(submitter, config, workloads.at(t.workload), t, o.chain, place) ? 0 : 1;
  if (failed == 0) return 0;
  std::fprintf(stderr, "ERROR: Submission error: Failed to launch %zu out of %zu tasks.\n", failed,
               list.tasks.size());
  return 2;
}

}  // namespace nereus
