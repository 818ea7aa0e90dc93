#include "recipe/submit.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <set>
#include <thread>

#include "base/files.h"
#include "base/text.h"
#include "recipe/cluster_survey.h"
#include "recipe/command_output.h"
#include "recipe/node_gpus.h"
#include "recipe/run_record.h"
#include "recipe/yaml.h"

namespace nereus::recipe {
namespace {

namespace fs = std::filesystem;

constexpr const char* kAdditional = "ADDITIONAL_SLURM_PARAMS";
constexpr int64_t kNvlinkNodes = 18;  // nodes of an NVL72 rack that share NVLink

std::string get(const Variables& all, const std::string& key) {
  const auto it = all.find(key);
  return it == all.end() ? "" : it->second;
}

// `more` wins.
Variables over(Variables all, const Variables& more) {
  for (const auto& [key, value] : more) all[key] = value;
  return all;
}

// The greatest divisor of the nodes that a rack holds.
int64_t segment_size(int64_t nodes) {
  for (int64_t d = std::min(nodes, kNvlinkNodes); d > 1; --d)
    if (nodes % d == 0) return d;
  return 1;
}

// The last `--key=value` of a command line.
std::string setting(const std::vector<std::string>& words, const std::string& key) {
  std::string value;
  const std::string prefix = "--" + key + "=";
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i].starts_with(prefix)) value = words[i].substr(prefix.size());
    if (words[i] == "--" + key && i + 1 < words.size()) value = words[i + 1];
  }
  return value;
}

}  // namespace

bool SlurmOptions::empty() const {
  return nodelist.empty() && exclude.empty() && reservation.empty() && !segment && !nice &&
         more.empty();
}

std::vector<std::string> SlurmOptions::words() const {
  std::vector<std::string> out;
  if (!nodelist.empty()) out.push_back("--nodelist=" + nodelist);
  if (!exclude.empty()) out.push_back("--exclude=" + exclude);
  if (!reservation.empty()) out.push_back("--reservation=" + reservation);
  if (segment) out.push_back(fmt::format("--segment={}", *segment));
  if (nice) out.push_back(fmt::format("--nice={}", *nice));
  std::set<std::string> seen;
  for (const std::string& raw : more) {
    const std::string word = trimmed(raw);
    NEREUS_CHECK(kConfig, !word.empty(), "`--slurm-arg` cannot be empty.");
    NEREUS_CHECK(kConfig, !word.starts_with("--"),
                 "`--slurm-arg` values should not include a leading '--'. Use `constraint=gpu` or "
                 "`exclusive` instead.");
    const size_t at = word.find('=');
    const std::string key = trimmed(word.substr(0, at));
    const std::string value = at == std::string::npos ? "" : trimmed(word.substr(at + 1));
    NEREUS_CHECK(kConfig, at == std::string::npos || (!key.empty() && !value.empty()),
                 "`--slurm-arg` assignments must be in `key=value` form with non-empty key and "
                 "value.");
    for (const char* own : {"nodelist", "exclude", "reservation", "segment", "nice"})
      NEREUS_CHECK(kConfig, key != own,
                   "`{0}` has a dedicated flag. Use `--{0}` instead of `--slurm-arg {1}`.", key,
                   word);
    NEREUS_CHECK(kConfig, seen.insert(key).second,
                 "Duplicate Slurm parameter '{}' was specified more than once.", key);
    out.push_back("--" + key + (value.empty() ? "" : "=" + value));
  }
  return out;
}

Submitter::Submitter(const ClusterConfig& config, const Workloads& workloads, Variables environment,
                     std::string program, SlurmOptions options, std::vector<std::string> arguments)
    : now([] { return int64_t{std::time(nullptr)}; }),
      wait([] { std::this_thread::sleep_for(std::chrono::seconds(1)); }),
      config_(config),
      workloads_(workloads),
      environment_(std::move(environment)),
      program_(std::move(program)),
      options_(std::move(options)),
      arguments_(std::move(arguments)) {}

std::string Submitter::folder(const Task& t, int64_t seconds) const {
  return fmt::format("{}/workloads/{}/experiments/{}_{}_{}_gpus{}/{}", config_.llmb_install,
                     t.workload, t.workload, t.size, t.dtype, t.scale, seconds);
}

Variables Submitter::variables(const Task& t, const std::string& run_folder) const {
  Variables out = {{"LLMB_INSTALL", config_.llmb_install},
                   {"LLMB_REPO", config_.llmb_repo},
                   {"LLMB_EXPERIMENT_DIR", run_folder},
                   {"MODEL_SIZE", t.size},
                   {"DTYPE", t.dtype},
                   {"JOB_TOTAL_GPUS", std::to_string(t.scale)},
                   {"GPU_TYPE", config_.gpu_type}};
  if (get(environment_, "NEREUS_BIN").empty()) out["NEREUS_BIN"] = program_;
  const auto add = [&out](const Variables& more) { out = over(std::move(out), more); };
  add(config_.gpu_variables());
  if (t.profile) out["ENABLE_PROFILE"] = "true";
  add(config_.environment);
  const auto settings = config_.workloads.find(t.workload);
  if (settings != config_.workloads.end()) add(settings->second.environment);
  add(t.environment);
  // A container takes over only what is named.
  std::string keys = out.count("LLMB_CONTAINER_ENV") ? out["LLMB_CONTAINER_ENV"]
                                                     : get(environment_, "LLMB_CONTAINER_ENV");
  std::vector<std::string> named = split_commas(keys);
  for (const auto& item : t.environment) {
    if (std::find(named.begin(), named.end(), item.first) != named.end()) continue;
    named.push_back(item.first);
    keys += (keys.empty() ? "" : ",") + item.first;
  }
  if (!keys.empty()) out["LLMB_CONTAINER_ENV"] = keys;
  for (const auto& [key, value] : t.parameters) out[upper(key)] = value;
  out["GPUS_PER_NODE"] = std::to_string(gpus_per_node(over(environment_, out), config_.gpu_type));
  return out;
}

Variables Submitter::job_environment(const Task& t, const std::string& run_folder) const {
  return over(environment_, variables(t, run_folder));
}

bool Submitter::profiles(const Task& t) const {
  return lower(get(job_environment(t, ""), "ENABLE_PROFILE")) == "true";
}

std::vector<std::string> Submitter::command(const Task& t, const std::string& run_folder,
                                            const std::string& after) const {
  const Variables all = job_environment(t, run_folder);
  const int64_t per_node = gpus_per_node(all, config_.gpu_type);
  const int64_t nodes = (t.scale + per_node - 1) / per_node;
  std::vector<std::string> out = {"sbatch",
                                  "--parsable",
                                  "--output=" + run_folder + "/slurm-%j.out",
                                  "-J",
                                  fmt::format("{}_{}_{}", t.workload, t.size, t.dtype),
                                  "-N",
                                  std::to_string(nodes),
                                  fmt::format("--ntasks-per-node={}", std::min(per_node, t.scale))};
  const std::vector<std::string> more = options_.words();
  out.insert(out.end(), more.begin(), more.end());
  const std::string segment = get(all, "SBATCH_SEGMENT_SIZE");
  if (!options_.segment && !segment.empty())
    out.push_back("--segment=" + segment);
  else if (!options_.segment && config_.gpu_type.starts_with("gb"))
    out.push_back(fmt::format("--segment={}", segment_size(nodes)));
  if (!after.empty()) out.push_back("--dependency=afterany:" + after);
  out.push_back(workload(t).folder + "/" + workload(t).launch_script);
  if (force) out.push_back("--force");
  out.insert(out.end(), arguments_.begin(), arguments_.end());
  return out;
}

std::optional<RecipeRun> Submitter::recipe_run(const Task& t) const {
  if (!is_there(workload(t).folder + "/deepseek_v3_671b.toml")) return std::nullopt;
  return resolve_run(job_environment(t, folder(t, now())), program_, workload(t).folder,
                     arguments_);
}

Submitter::Checked Submitter::check(const Task& t, Purpose purpose) const {
  const std::string& type = workload(t).launcher_type;
  NEREUS_CHECK(kConfig, type == "configured_sbatch",
               "{}: its launcher_type is \"{}\" ({}/metadata.yaml), and Nereus submits "
               "configured_sbatch workloads alone.",
               t.workload, type, workload(t).folder);
  if (!options_.empty()) {
    const auto settings = config_.workloads.find(t.workload);
    for (const auto& [variables, source] :
         {std::pair<const Variables*, const char*>{&environment_, "process environment"},
          {&config_.environment, "cluster config environment"},
          {settings == config_.workloads.end() ? nullptr : &settings->second.environment,
           "workload config environment"},
          {&t.environment, "task environment overrides"}})
      NEREUS_CHECK(kConfig, !variables || trimmed(get(*variables, kAdditional)).empty(),
                   "Cannot combine first-class Slurm CLI flags with {} from {}.", kAdditional,
                   source);
  }
  command(t, folder(t, now()));  // its errors
  Checked out;
  const std::optional<RecipeRun> run = recipe_run(t);
  if (run && run_check) {
    const RunFacts facts = run_check(*run);
    out.warnings = hold(facts, *run, purpose, force);
    if (!resumes) {
      const std::string other = unfinished_beside(*run, environment_, "nereus submit --resume ");
      if (!other.empty()) out.warnings.push_back(other);
    }
    out.facts = facts.lines;
  }
  if (run) out.warnings.insert(out.warnings.end(), run->warnings.begin(), run->warnings.end());
  if (find_program("sbatch", environment_).empty())
    out.warnings.push_back(
        "sbatch is not in PATH: jobs are submitted from a login node of the cluster.");
  return out;
}

std::string Submitter::make_folder(const Task& t) const {
  constexpr int kTries = 3;
  std::string path;
  for (int i = 0; i < kTries; ++i) {
    if (i > 0) wait();
    path = folder(t, now());
    std::error_code error;
    fs::create_directories(fs::path(path).parent_path(), error);
    if (!error && fs::create_directory(path, error)) return path;
    NEREUS_CHECK(kConfig, !error,
                 "Failed to create experiment directory {}: {}. It is below llmb_install of "
                 "cluster_config.yaml, which must be writable.",
                 path, error.message());
  }
  NEREUS_FAIL(
      kConfig,
      "Failed to create unique experiment directory after {} attempts: {} is there already.",
      kTries, path);
}

const std::string& Submitter::cluster_name() const {
  if (!config_.cluster_name.empty()) return config_.cluster_name;
  if (!cluster_name_)
    cluster_name_ =
        parse_cluster_name(run_command({"scontrol", "show", "config"}, environment_).out);
  return *cluster_name_;
}

RunConfig Submitter::run_config(const Task& t, const std::string& job,
                                const std::string& time) const {
  const Workload& w = workload(t);
  const Variables slurm = config_.gpu_variables(), cpu = config_.cpu_variables();
  const auto of = [](const Variables& all, const std::string& key) {
    const std::string value = get(all, "SBATCH_" + key);
    return value.empty() ? get(all, "SLURM_" + key) : value;
  };
  RunConfig c;
  c.job_id = job;
  c.launcher_type = w.launcher_type;
  c.launch_time = time;
  c.framework = w.framework;
  c.gsw_version = release_version(config_.llmb_repo, NEREUS_VERSION);
  c.images = w.images_for(config_.gpu_type);
  c.fw_version = "unknown";
  if (!c.images.empty() && c.images[0].find(':') != std::string::npos)
    c.fw_version = c.images[0].substr(c.images[0].rfind(':') + 1);
  if (w.framework == "nereus") c.fw_version = NEREUS_VERSION;
  c.workload_type = w.type;
  c.synthetic_dataset = setting(arguments_, "training.dataset") == "random";
  c.model_name = w.model;
  c.model_size = t.size;
  c.dtype = t.dtype;
  c.scale = t.scale;
  c.gpu_type = config_.gpu_type;
  c.cluster_name = cluster_name();
  c.gpus_per_node = get(variables(t, ""), "GPUS_PER_NODE");
  c.llmb_install = config_.llmb_install;
  c.llmb_repo = config_.llmb_repo;
  c.slurm_account = get(slurm, "SBATCH_ACCOUNT");
  c.slurm_gpu_partition = of(slurm, "PARTITION");
  c.slurm_cpu_partition = of(cpu, "PARTITION");
  c.profile_enabled = t.profile;
  c.proxy = t.proxy;
  c.strong_scaling = get(environment_, "STRONG_SCALING") == "true";
  c.env_overrides = t.environment;
  c.model_overrides = t.parameters;
  return c;
}

SubmittedJob Submitter::submit(const Task& t, const Place& place) const {
  NEREUS_CHECK(kConfig, !find_program("sbatch", environment_).empty(),
               "sbatch: not found in PATH. Submit from a login node of the cluster, or look at the "
               "jobs with --dry-run.");
  SubmittedJob job;
  const bool is_new = place.folder.empty();
  job.folder = is_new ? make_folder(t) : place.folder;
  Variables all = job_environment(t, job.folder);
  all.erase("SBATCH_SEGMENT_SIZE");  // it is --segment of the command
  const CommandOutput said =
      run_command(command(t, job.folder, place.after > 0 ? std::to_string(place.after) : ""), all,
                  workload(t).folder, sbatch_seconds);
  NEREUS_CHECK(kIo, said.code != kTookTooLong,
               "{}. The job may have been submitted anyway: see `squeue --me`. It would run "
               "in {}, which is kept, and is not in the job history.",
               said.err, job.folder);
  job.id = std::strtoll(said.out.c_str(), nullptr, 10);
  if (said.code != 0 || job.id <= 0) {
    std::error_code ignored;
    if (is_new) {
      fs::remove(job.folder, ignored);
      fs::remove(fs::path(job.folder).parent_path(), ignored);
    }
    NEREUS_CHECK(kConfig, said.code != 0, "Unable to parse Slurm job id from '{}'.",
                 trimmed(said.out));
    NEREUS_FAIL(kConfig, "{}",
                said.err.empty() ? fmt::format("sbatch ended with {}", said.code) : said.err);
  }
  if (!said.err.empty()) job.warnings.push_back(said.err);
  job.launch_time = local_time(now());
  job.config = fmt::format("{}/llmb-config_{}.yaml", job.folder, job.id);
  try {
    write_run_config(run_config(t, std::to_string(job.id), job.launch_time), job.config);
  } catch (const Error& e) {
    job.warnings.push_back(
        fmt::format("job {} was submitted, but not described: {}", job.id, e.what()));
  }
  return job;
}

std::string release_version(const std::string& repository, const std::string& otherwise) {
  std::error_code error;
  const std::string path = repository + "/release.yaml";
  if (!fs::exists(path, error)) return otherwise;
  const YamlFile file(path, "release's description");
  const std::string version = file.text(file.root(), "", "llmb_version");
  return version.empty() ? otherwise : version;
}

std::string local_time(int64_t seconds) {
  const std::time_t time = seconds;
  std::tm parts{};
  localtime_r(&time, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
  return text;
}

}  // namespace nereus::recipe
