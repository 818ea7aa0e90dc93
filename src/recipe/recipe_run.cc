#include "recipe/recipe_run.h"

#include <algorithm>
#include <cstdlib>

#include "base/check.h"
#include "base/text.h"
#include "recipe/node_gpus.h"

namespace nereus::recipe {
namespace {

constexpr const char* kModel = "deepseek-v3-torchtitan";
constexpr const char* kVariables[] = {"GPU_TYPE",
                                      "JOB_TOTAL_GPUS",
                                      "LLMB_INSTALL",
                                      "NEREUS_PRESET",
                                      "DTYPE",
                                      "GPUS_PER_NODE",
                                      "SBATCH_GPUS_PER_NODE",
                                      "SBATCH_GRES",
                                      "DATA_PARALLEL_SHARD_DEGREE",
                                      "EXPERT_PARALLEL_DEGREE",
                                      "PIPELINE_PARALLEL_DEGREE",
                                      "PIPELINE_PARALLEL_SCHEDULE",
                                      "ACTIVATION_CHECKPOINT_MODE",
                                      "LOCAL_BATCH_SIZE",
                                      "LOG_RANK",
                                      "DATASET_PATH",
                                      "SEQ_LEN",
                                      "TRAINING_STEPS",
                                      "ENABLE_PROFILE",
                                      "RUN_CONF_IMAGE",
                                      "RUN_CONF_MOUNTS",
                                      "LLMB_EXPERIMENT_DIR",
                                      "LLMB_CONTAINER_ENV",
                                      "ADDITIONAL_SLURM_PARAMS",
                                      "COMM_INIT_TIMEOUT",
                                      "COMM_TRAIN_TIMEOUT",
                                      "NEREUS_DOCTOR",
                                      "NEREUS_REQUEUE",
                                      "NEREUS_RESUME",
                                      "SLURM_GPUS_PER_NODE",
                                      "SLURM_JOB_ID",
                                      "SLURM_JOB_NUM_NODES",
                                      "SLURM_NTASKS",
                                      "SLURM_RESTART_COUNT"};

// A preset's values for a GPU type and a number of GPUs.
struct Preset {
  int64_t dp_shard, ep, pp, local_batch, steps;
  std::string schedule, recompute;
  int64_t rows = 0;  // without a pipeline, of a microbatch; 0: the local batch at once
  // Further settings that go with the preset's schedule and with its recompute mode.
  using Settings = std::vector<std::pair<std::string, std::string>>;
  Settings with_schedule = {}, with_recompute = {};
};

Preset original(const std::string& gpu) {
  return {.dp_shard = gpu == "h100" || gpu == "h200" ? 64 : 32,
          .ep = 32,
          .pp = 8,
          .local_batch = 16,
          .steps = 200,
          .schedule = "Interleaved1F1B",
          .recompute = "full"};
}

Preset newer(const std::string& gpu, int64_t gpus) {
  if (gpu == "h100" || gpu == "h200")
    return {.dp_shard = gpus == 1024 ? 128 : 64,
            .ep = 64,
            .pp = 8,
            .local_batch = 16,
            .steps = 60,
            .schedule = "1F1B",
            .recompute = "selective"};
  return {.dp_shard = -1,
          .ep = 64,
          .pp = 1,
          .local_batch = 8,
          .steps = 60,
          .schedule = "Interleaved1F1B",
          .recompute = "full"};
}

// The newer split with a schedule that fills the bubble and fits the memory: with 16 microbatches
// on 8 ranks a step takes 1.17 times one without bubble and recompute, where 1F1B takes 1.49 and
// Interleaved1F1B with full recompute 1.54 (simulator_test.cc). ZBVZeroBubble would take less, but
// up to 15 wgrads of a rank wait with all that they read.
Preset ours(const std::string& gpu, int64_t gpus) {
  Preset p = newer(gpu, gpus);
  p.recompute = "selective";
  if (p.pp > 1) {
    p.schedule = "InterleavedZeroBubble";
    p.with_schedule = {{"parallelism.pipeline_parallel_layers_per_stage", "2"},
                       {"parallelism.pipeline_parallel_pending_wgrads", "1"}};
    p.with_recompute = {{"activation_checkpoint.recompute", "norms,mla_up,swiglu,dispatch,gate_up"},
                        {"activation_checkpoint.gate_up_every", "2"}};
  } else {
    p.rows = 2;
  }
  return p;
}

class Reader {
 public:
  explicit Reader(const Variables& v) : v_(v) {}

  std::string text(const char* name, const std::string& otherwise = "") const {
    const auto it = v_.find(name);
    return it == v_.end() || it->second.empty() ? otherwise : it->second;
  }
  // `or_rest`: -1 is what the others leave.
  int64_t number(const char* name, int64_t otherwise, bool or_rest = false) const {
    constexpr int64_t kMost = 999'999'999;
    const std::string s = text(name);
    if (s.empty()) return otherwise;
    char* end = nullptr;
    const int64_t n = std::strtoll(s.c_str(), &end, 10);
    NEREUS_CHECK(kConfig, *end == '\0' && ((n >= 1 && n <= kMost) || (or_rest && n == -1)),
                 "{} = \"{}\": it must be a whole number, 1 to {}{}.", name, s, kMost,
                 or_rest ? ", or -1" : "");
    return n;
  }

 private:
  const Variables& v_;
};

// The recipe's text, of the release that the preset is of.
std::string gpu_type(const Reader& env) {
  const std::string asked = env.text("GPU_TYPE"), type = lower(asked);
  NEREUS_CHECK(kConfig, !asked.empty(), "GPU_TYPE is a required variable.");
  constexpr const char* kTypes[] = {"h100", "b200", "gb200", "h200"};
  NEREUS_CHECK(
      kConfig,
      std::any_of(std::begin(kTypes), std::end(kTypes), [&](const char* t) { return type == t; }),
      "{} '{}'\n  Nereus takes h200 too, with h100's settings.",
      env.text("NEREUS_PRESET") == "newer"
          ? "TorchTitan recipe supports only h100, b200, and gb200 GPU types; got"
          : "Torchtitan recipes only supports h100, b200, and gb200 GPU types, got",
      asked);
  return type;
}

std::string dtype(const Reader& env) {
  const std::string asked = env.text("DTYPE", "bf16"), type = lower(asked);
  NEREUS_CHECK(kConfig, type != "fp8",
               "FP8 is not supported for this TorchTitan DeepSeek-V3 recipe yet (WIP). "
               "Supported DTYPE: bf16. Got DTYPE='{}'.",
               asked);
  NEREUS_CHECK(kConfig, type == "bf16", "Supported DTYPE: bf16, fp8. Got DTYPE='{}'.", asked);
  return type;
}

// "key=value;flag" as Slurm's options, by the rules of the recipe's script: blanks around keys and
// values are no part of them, and a key or a value without the other is left out. A value may have
// commas and ampersands.
std::vector<std::string> slurm_options(const std::string& text,
                                       std::vector<std::string>& warnings) {
  std::vector<std::string> out;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(';', begin), text.size());
    const std::string item = trimmed(std::string_view(text).substr(begin, end - begin));
    begin = end + 1;
    const size_t equals = item.find('=');
    const std::string key = trimmed(std::string_view(item).substr(0, equals));
    const std::string value =
        equals == std::string::npos ? "" : trimmed(std::string_view(item).substr(equals + 1));
    if (item.empty()) continue;
    if (key.empty() || (value.empty() && equals != std::string::npos)) {
      warnings.push_back(fmt::format(
          "ADDITIONAL_SLURM_PARAMS: \"{}\" is left out: it is neither key=value nor a flag.",
          item));
      continue;
    }
    out.push_back((key.starts_with("-") ? "" : "--") + key + (value.empty() ? "" : "=" + value));
  }
  return out;
}

std::string folder_of(const std::string& file) { return file.substr(0, file.rfind('/')); }

// pyxis' options: `folders` (PATH or PATH:ro) are inside what they are outside.
std::vector<std::string> container_options(const Reader& env,
                                           const std::vector<std::string>& folders) {
  const std::string image = env.text("RUN_CONF_IMAGE");
  if (image.empty()) return {};
  std::string mounts;
  for (const std::string& folder : folders)
    mounts += folder.substr(0, folder.rfind(":ro")) + ":" + folder + ",";
  const std::string more = env.text("RUN_CONF_MOUNTS");
  std::vector<std::string> out = {"--container-image=" + image,
                                  "--container-mounts=" + mounts + more,
                                  "--no-container-mount-home", "--container-writable"};
  if (more.empty()) out[1].pop_back();
  const std::string keys = env.text("LLMB_CONTAINER_ENV");
  if (!keys.empty()) out.push_back("--container-env=" + keys);
  return out;
}

Preset preset_of(const std::string& name, const std::string& gpu, int64_t gpus) {
  if (name == "original") return original(gpu);
  if (name == "newer") return newer(gpu, gpus);
  NEREUS_CHECK(kConfig, name == "ours",
               "NEREUS_PRESET = \"{}\": it must be one of original, newer, ours.", name);
  return ours(gpu, gpus);
}

// Degrees that do not multiply to the GPUs, with what would.
void check_degrees(int64_t gpus, int64_t dp, int64_t pp, int64_t ep) {
  NEREUS_CHECK(kConfig, gpus % pp == 0,
               "JOB_TOTAL_GPUS = {} is not a multiple of PIPELINE_PARALLEL_DEGREE = {}: use {} or "
               "{} GPUs, or another degree.",
               gpus, pp, std::max<int64_t>(1, gpus / pp) * pp, (gpus / pp + 1) * pp);
  const int64_t left = gpus / pp;
  NEREUS_CHECK(kConfig, dp == -1 || dp == left,
               "DATA_PARALLEL_SHARD_DEGREE = {} times PIPELINE_PARALLEL_DEGREE = {} is {}, and "
               "JOB_TOTAL_GPUS is {}: set DATA_PARALLEL_SHARD_DEGREE to {} or -1.",
               dp, pp, dp * pp, gpus, left);
  NEREUS_CHECK(kConfig, left % ep == 0,
               "EXPERT_PARALLEL_DEGREE = {} does not divide the {} GPUs of a pipeline stage "
               "(JOB_TOTAL_GPUS = {} over PIPELINE_PARALLEL_DEGREE = {}): set it to a divisor.",
               ep, left, gpus, pp);
}

}  // namespace

std::vector<std::string> RecipeRun::command() const {
  std::vector<std::string> all = srun;
  all.insert(all.end(), train.begin(), train.end());
  return all;
}

RecipeRun resolve_run(const Variables& variables, const std::string& program,
                      const std::string& recipe_folder, const std::vector<std::string>& arguments) {
  const Reader env(variables);
  RecipeRun run;
  run.gpu_type = gpu_type(env);
  NEREUS_CHECK(kConfig, !env.text("JOB_TOTAL_GPUS").empty(),
               "JOB_TOTAL_GPUS is a required variable.");
  run.gpus = env.number("JOB_TOTAL_GPUS", 0);
  const std::string install = env.text("LLMB_INSTALL");
  NEREUS_CHECK(
      kConfig, !install.empty(),
      "Please set LLMB_INSTALL to the path of the installation directory for all workloads");
  run.install = install;
  run.log_rank = env.text("LOG_RANK");
  run.image = env.text("RUN_CONF_IMAGE");
  run.dtype = dtype(env);
  run.preset = env.text("NEREUS_PRESET", "original");
  const Preset preset = preset_of(run.preset, run.gpu_type, run.gpus);

  const bool hopper = run.gpu_type == "h100" || run.gpu_type == "h200";
  if (run.preset == "newer" && hopper && run.gpus != 512)
    run.warnings.push_back(
        fmt::format("the newer recipe lists 512 GPUs alone for {}; {} are not among its results.",
                    run.gpu_type, run.gpus));

  const int64_t pp = env.number("PIPELINE_PARALLEL_DEGREE", preset.pp);
  const int64_t ep = env.number("EXPERT_PARALLEL_DEGREE", preset.ep);
  // The presets' dp is for the recipe's scales; at others it is what the pipeline leaves.
  const bool listed = preset.dp_shard == -1 || preset.dp_shard * pp == run.gpus;
  const int64_t dp =
      env.number("DATA_PARALLEL_SHARD_DEGREE", listed ? preset.dp_shard : int64_t{-1}, true);
  check_degrees(run.gpus, dp, pp, ep);
  const int64_t left = run.gpus / pp;  // data-parallel ranks

  const std::string workload = install + "/workloads/pretrain_" + kModel;
  const std::string job = env.text("SLURM_JOB_ID", "local");
  const std::string restart = env.text("SLURM_RESTART_COUNT", "0");
  run.experiment =
      env.text("LLMB_EXPERIMENT_DIR", fmt::format("{}/experiments/{}_671b_{}_gpus{}/job_{}",
                                                  workload, kModel, run.dtype, run.gpus, job));
  run.outputs = run.experiment + "/outputs";

  const std::string log =
      fmt::format("{}/log-torchtitan_{}_{}gpus_%j_{}", run.experiment, kModel, run.gpus, restart);
  run.srun = {"srun", fmt::format("--ntasks={}", run.gpus), fmt::format("--output={}.out", log),
              fmt::format("--error={}.err", log),
              // A rank that ends before the others can be told of it.
              "--kill-on-bad-exit=1"};
  const std::string dataset = env.text("DATASET_PATH", install + "/datasets/c4");
  const std::string tokenizer = workload + "/torchtitan/assets/hf/DeepSeek-V3.1-Base";
  const std::vector<std::string> container =
      container_options(env, {run.experiment, recipe_folder + ":ro", dataset + ":ro",
                              tokenizer + ":ro", folder_of(program) + ":ro"});
  run.srun.insert(run.srun.end(), container.begin(), container.end());
  if (run.image.empty() && !env.text("RUN_CONF_MOUNTS").empty())
    run.warnings.push_back("RUN_CONF_MOUNTS has no effect without RUN_CONF_IMAGE.");
  if (lower(env.text("NEREUS_DOCTOR", "false")) == "true") {
    const int64_t per_node = gpus_per_node(variables, run.gpu_type, 0);  // 0: any number
    const int64_t nodes = env.number(
        "SLURM_JOB_NUM_NODES", per_node > 0 ? (run.gpus + per_node - 1) / per_node : int64_t{1});
    // A task that fails does not end the others: every node's table is wanted.
    run.doctor = {"srun", fmt::format("--ntasks={}", nodes), "--ntasks-per-node=1",
                  "--kill-on-bad-exit=0"};
    run.doctor.insert(run.doctor.end(), container.begin(), container.end());
    for (const std::string& word : {program, std::string("doctor"), std::string("--brief"),
                                    std::string("--no-hub"), fmt::format("--gpus={}", per_node),
                                    "--folder=" + run.outputs, std::string("--write-mib=64")})
      run.doctor.push_back(word);
  }
  for (const std::string& option : slurm_options(env.text("ADDITIONAL_SLURM_PARAMS"), run.warnings))
    run.srun.push_back(option);

  const auto set = [&run](const std::string& key, const std::string& value) {
    run.train.push_back("--" + key + "=" + value);
    run.settings.push_back(key + " = " + value);
  };
  run.train = {program, "train", "--job.config_file=" + recipe_folder + "/deepseek_v3_671b.toml"};
  set("job.dump_folder", run.outputs);
  if (run.preset == "newer")
    set("job.save_config_file", run.experiment + "/configs/torchtitan_resolved_config.json");
  set("model.hf_assets_path", tokenizer);
  set("training.dataset_path", dataset);
  set("training.steps", fmt::format("{}", env.number("TRAINING_STEPS", preset.steps)));
  set("training.seq_len", fmt::format("{}", env.number("SEQ_LEN", 4096)));
  const int64_t local_batch = env.number("LOCAL_BATCH_SIZE", preset.local_batch);
  const bool in_parts = preset.rows > 0 && pp == 1 && local_batch % preset.rows == 0;
  set("training.local_batch_size", fmt::format("{}", in_parts ? preset.rows : local_batch));
  if (in_parts) set("training.global_batch_size", fmt::format("{}", local_batch * left));
  set("training.debug_moe_force_load_balance", "true");
  // TorchTitan's flavor has masks within documents, the recipe "uses standard causal attention".
  set("model_overrides.attn_mask_type", "causal");
  set("parallelism.data_parallel_shard_degree", fmt::format("{}", dp));
  set("parallelism.expert_parallel_degree", fmt::format("{}", ep));
  set("parallelism.pipeline_parallel_degree", fmt::format("{}", pp));
  const std::string schedule = env.text("PIPELINE_PARALLEL_SCHEDULE", preset.schedule);
  const std::string recompute = env.text("ACTIVATION_CHECKPOINT_MODE", preset.recompute);
  set("parallelism.pipeline_parallel_schedule", schedule);
  set("activation_checkpoint.mode", recompute);
  if (schedule == preset.schedule && pp == preset.pp)
    for (const auto& [key, value] : preset.with_schedule) set(key, value);
  if (recompute == preset.recompute)
    for (const auto& [key, value] : preset.with_recompute) set(key, value);
  const bool slow_start = run.gpu_type == "gb200" && run.preset != "original";
  if (slow_start || !env.text("COMM_INIT_TIMEOUT").empty())
    set("comm.init_timeout_seconds", fmt::format("{}", env.number("COMM_INIT_TIMEOUT", 1500)));
  if (slow_start || !env.text("COMM_TRAIN_TIMEOUT").empty())
    set("comm.train_timeout_seconds", fmt::format("{}", env.number("COMM_TRAIN_TIMEOUT", 2000)));
  run.requeues = lower(env.text("NEREUS_REQUEUE", "false")) == "true";
  if (run.requeues || !env.text("NEREUS_RESUME").empty()) set("checkpoint.enable", "true");
  if (lower(env.text("ENABLE_PROFILE", "false")) == "true") {
    set("profiling.enable_profiling", "true");
    set("profiling.save_traces_folder",
        fmt::format("torchtitan_{}_{}gpus_{}_profile_trace", kModel, run.gpus, job));
  }
  run.train.insert(run.train.end(), arguments.begin(), arguments.end());
  return run;
}

Variables recipe_variables() {
  Variables out;
  for (const char* name : kVariables)
    if (const char* value = std::getenv(name)) out[name] = value;
  return out;
}

}  // namespace nereus::recipe
