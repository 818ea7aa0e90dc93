// Every setting of a run of the recipe against NVIDIA's own: the values of its
// deepseek_v3_671b.toml (the same in all releases) and what its launch.sh gives TorchTitan, of the
// first release (v25.12.02) and of the newer ones (to v26.08).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <sstream>

#include "config/load.h"
#include "recipe/recipe_run.h"
#include "test/test_tensor.h"

namespace nereus::recipe {
namespace {

using Settings = std::map<std::string, std::string>;  // "section.key" -> value

Settings settings_of(const JobConfig& config) {
  Settings out;
  std::istringstream lines(config_lines(config));
  for (std::string line; std::getline(lines, line);)
    out[line.substr(0, line.find('='))] = line.substr(line.find('=') + 1);
  return out;
}

// What `nereus train` makes of the recipe's command line on as many ranks.
Settings settings_of(const Variables& environment) {
  Variables all = environment;
  all["LLMB_INSTALL"] = "/i";
  all["SLURM_JOB_ID"] = "7";
  const RecipeRun run = resolve_run(all, "/nereus", test::source_path("recipes/deepseek_v3"), {});
  std::vector<std::string> arguments(run.train.begin() + 2, run.train.end());
  arguments.insert(arguments.end(), {"--dry-run", "--world=" + environment.at("JOB_TOTAL_GPUS")});
  TrainFlags flags;
  return settings_of(load_config(arguments, flags).config);
}

const Settings kToml = {
    {"job.dump_folder", "\"./outputs\""},
    {"job.description", "\"DeepSeek-V3 671B model training\""},
    {"job.print_config", "false"},
    {"profiling.enable_profiling", "false"},
    {"profiling.save_traces_folder", "\"profile_trace\""},
    {"profiling.profile_freq", "10"},
    {"profiling.enable_memory_snapshot", "false"},
    {"profiling.save_memory_snapshot_folder", "\"memory_snapshot\""},
    {"metrics.log_freq", "10"},
    {"metrics.disable_color_printing", "true"},
    {"metrics.enable_tensorboard", "false"},
    {"metrics.save_tb_folder", "\"tb\""},
    {"metrics.enable_wandb", "false"},
    {"model.name", "\"deepseek_v3\""},
    {"model.flavor", "\"671B\""},
    {"model.hf_assets_path", "\"./assets/hf/DeepSeek-V3.1-Base\""},
    {"comm.init_timeout_seconds", "1200"},
    {"comm.train_timeout_seconds", "300"},
    {"optimizer.name", "\"AdamW\""},
    {"optimizer.lr", "0.00022"},
    {"optimizer.eps", "1e-08"},
    {"lr_scheduler.warmup_steps", "100"},
    {"lr_scheduler.decay_ratio", "0.8"},
    {"lr_scheduler.decay_type", "\"cosine\""},
    {"lr_scheduler.min_lr_factor", "0.1"},
    {"training.local_batch_size", "16"},
    {"training.seq_len", "4096"},
    {"training.max_norm", "1.0"},
    {"training.steps", "500"},
    {"training.dataset", "\"c4\""},
    {"parallelism.data_parallel_replicate_degree", "1"},
    {"parallelism.data_parallel_shard_degree", "-1"},
    {"parallelism.fsdp_reshard_after_forward", "\"default\""},
    {"parallelism.tensor_parallel_degree", "1"},
    {"parallelism.enable_async_tensor_parallel", "false"},
    {"parallelism.pipeline_parallel_degree", "1"},
    {"parallelism.pipeline_parallel_schedule", "\"Interleaved1F1B\""},
    {"parallelism.pipeline_parallel_first_stage_less_layers", "1"},
    {"parallelism.pipeline_parallel_last_stage_less_layers", "1"},
    {"parallelism.expert_parallel_degree", "1"},
    {"parallelism.expert_tensor_parallel_degree", "1"},
    {"checkpoint.enable", "false"},
    {"checkpoint.folder", "\"checkpoint\""},
    {"checkpoint.interval", "500"},
    {"checkpoint.last_save_model_only", "true"},
    {"checkpoint.export_dtype", "\"float32\""},
    {"checkpoint.async_mode", "\"disabled\""},
    {"activation_checkpoint.mode", "\"full\""},
    {"activation_checkpoint.selective_ac_option", "\"op\""},
    {"compile.enable", "true"},
    {"compile.components", "[\"model\", \"loss\"]"},
    {"quantize.linear.float8.enable_fsdp_float8_all_gather", "false"},
    {"quantize.linear.float8.precompute_float8_dynamic_scale_for_fsdp", "false"},
    {"quantize.linear.float8.filter_fqns", "[\"output\", \"router.gate\"]"},
    {"quantize.grouped_mm.float8.fqns", "[\"experts\"]"},
};

TEST(NvidiasSettings, TheFileHasTheirKeysAndValuesAndNoOther) {
  TrainFlags flags;
  const LoadedConfig loaded = load_config(
      std::vector<std::string>{test::source_path("recipes/deepseek_v3/deepseek_v3_671b.toml")},
      flags);
  const Settings all = settings_of(loaded.config);
  Settings ours;
  for (const auto& [key, origin] : loaded.origin)
    if (key != "job.config_file") ours[key] = all.at(key);
  EXPECT_EQ(ours, kToml);
}

struct Release {
  std::string preset, gpu;
  int gpus, shard, ep, pp, batch;
  Settings more = {};  // what its script sets besides
};
void PrintTo(const Release& r, std::ostream* out) { *out << r.preset << ", " << r.gpu; }

class NvidiasScript : public testing::TestWithParam<Release> {};

// Besides the places of the run: the defaults of all keys, NVIDIA's file over them, its script's
// arguments over that. Two things are in neither: TorchTitan's flavor has document masks, and
// the recipe "uses standard causal attention" (its README, Known Limitations); the first README
// has 200 steps, its script 60.
TEST_P(NvidiasScript, GivesTheSameSettings) {
  const Release& r = GetParam();
  Settings want = settings_of(JobConfig());
  const auto set = [&want](const Settings& more) {
    for (const auto& [key, value] : more) {
      EXPECT_TRUE(want.contains(key)) << key;
      want[key] = value;
    }
  };
  set(kToml);
  const std::string workload = "/i/workloads/pretrain_deepseek-v3-torchtitan";
  set({{"job.config_file",
        "\"" + test::source_path("recipes/deepseek_v3/deepseek_v3_671b.toml") + "\""},
       {"job.dump_folder", "\"" + workload + "/experiments/deepseek-v3-torchtitan_671b_bf16_gpus" +
                               std::to_string(r.gpus) + "/job_7/outputs\""},
       {"model.hf_assets_path", "\"" + workload + "/torchtitan/assets/hf/DeepSeek-V3.1-Base\""},
       {"training.dataset_path", "\"/i/datasets/c4\""},
       {"training.steps", r.preset == "original" ? "200" : "60"},
       {"training.debug_moe_force_load_balance", "true"},
       {"training.local_batch_size", std::to_string(r.batch)},
       {"parallelism.data_parallel_shard_degree", std::to_string(r.shard)},
       {"parallelism.expert_parallel_degree", std::to_string(r.ep)},
       {"parallelism.pipeline_parallel_degree", std::to_string(r.pp)},
       {"model_overrides.attn_mask_type", "\"causal\""}});
  if (r.preset == "newer")
    set({{"job.save_config_file",
          "\"" + workload + "/experiments/deepseek-v3-torchtitan_671b_bf16_gpus" +
              std::to_string(r.gpus) + "/job_7/configs/torchtitan_resolved_config.json\""}});
  set(r.more);
  const Settings have = settings_of({{"GPU_TYPE", r.gpu},
                                     {"JOB_TOTAL_GPUS", std::to_string(r.gpus)},
                                     {"NEREUS_PRESET", r.preset}});
  for (const auto& [key, value] : have) EXPECT_EQ(value, want[key]) << key;
}

const Settings kH100 = {{"parallelism.pipeline_parallel_schedule", "\"1F1B\""},
                        {"activation_checkpoint.mode", "\"selective\""}};
const Settings kGb200 = {{"comm.init_timeout_seconds", "1500"},
                         {"comm.train_timeout_seconds", "2000"}};
INSTANTIATE_TEST_SUITE_P(EveryRelease, NvidiasScript,
                         testing::Values(Release{"original", "h100", 512, 64, 32, 8, 16},
                                         Release{"original", "b200", 256, 32, 32, 8, 16},
                                         Release{"original", "gb200", 256, 32, 32, 8, 16},
                                         Release{"newer", "h100", 512, 64, 64, 8, 16, kH100},
                                         Release{"newer", "h100", 1024, 128, 64, 8, 16, kH100},
                                         Release{"newer", "b200", 256, -1, 64, 1, 8},
                                         Release{"newer", "gb200", 256, -1, 64, 1, 8, kGb200}));

}  // namespace
}  // namespace nereus::recipe
