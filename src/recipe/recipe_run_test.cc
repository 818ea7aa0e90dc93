#include "recipe/recipe_run.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace nereus::recipe {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::Not;
using testing::ThrowsMessage;

Variables with(Variables more, const Variables& base = {{"GPU_TYPE", "h100"},
                                                        {"JOB_TOTAL_GPUS", "512"},
                                                        {"LLMB_INSTALL", "/lustre/llmb"},
                                                        {"SLURM_JOB_ID", "77"}}) {
  more.insert(base.begin(), base.end());
  return more;
}
RecipeRun resolve(const Variables& v, const std::vector<std::string>& arguments = {}) {
  return resolve_run(v, "/opt/nereus", "/repo/recipes/deepseek_v3", arguments);
}

TEST(RecipeRun, TheOriginalPresetIsTheRecipesFirstRelease) {
  const RecipeRun run = resolve(with({}));
  EXPECT_EQ(run.preset, "original");
  const std::string experiment =
      "/lustre/llmb/workloads/pretrain_deepseek-v3-torchtitan/experiments/"
      "deepseek-v3-torchtitan_671b_bf16_gpus512/job_77";
  EXPECT_EQ(run.outputs, experiment + "/outputs");
  const std::string log = experiment + "/log-torchtitan_deepseek-v3-torchtitan_512gpus_%j_0";
  EXPECT_THAT(run.srun, testing::ElementsAre("srun", "--ntasks=512", "--output=" + log + ".out",
                                             "--error=" + log + ".err", "--kill-on-bad-exit=1"));
  EXPECT_THAT(
      run.train,
      testing::ElementsAre(
          "/opt/nereus", "train",
          "--job.config_file=/repo/recipes/deepseek_v3/deepseek_v3_671b.toml",
          "--job.dump_folder=" + experiment + "/outputs",
          "--model.hf_assets_path=/lustre/llmb/workloads/pretrain_deepseek-v3-torchtitan/"
          "torchtitan/assets/hf/DeepSeek-V3.1-Base",
          "--training.dataset_path=/lustre/llmb/datasets/c4", "--training.steps=200",
          "--training.seq_len=4096", "--training.local_batch_size=16",
          "--training.debug_moe_force_load_balance=true", "--model_overrides.attn_mask_type=causal",
          "--parallelism.data_parallel_shard_degree=64", "--parallelism.expert_parallel_degree=32",
          "--parallelism.pipeline_parallel_degree=8",
          "--parallelism.pipeline_parallel_schedule=Interleaved1F1B",
          "--activation_checkpoint.mode=full"));
}

// Since v26.08 the recipe has results of 512 H100s alone, saves its configuration, and words its
// refusal in another way.
TEST(RecipeRun, TheNewerPresetFollowsTheNewerRecipe) {
  const auto newer = [](const char* gpus) {
    return resolve(with({{"JOB_TOTAL_GPUS", gpus}, {"NEREUS_PRESET", "newer"}}));
  };
  EXPECT_THAT(newer("512").train,
              Contains(testing::MatchesRegex(
                  "--job.save_config_file=.*/job_77/configs/torchtitan_resolved_config.json")));
  EXPECT_TRUE(newer("512").warnings.empty());
  EXPECT_THAT(newer("1024").warnings,
              testing::ElementsAre("the newer recipe lists 512 GPUs alone for h100; 1024 are not "
                                   "among its results."));
  EXPECT_TRUE(resolve(with({{"JOB_TOTAL_GPUS", "1024"}})).warnings.empty());
  EXPECT_THAT(
      [] {
        resolve(with({{"GPU_TYPE", "a100"}, {"NEREUS_PRESET", "newer"}}));
      },
      ThrowsMessage<Error>(testing::StartsWith(
          "TorchTitan recipe supports only h100, b200, and gb200 GPU types; got 'a100'\n")));
}

TEST(RecipeRun, PresetsFollowTheGpuType) {
  const auto newer = [](const char* gpu, const char* gpus) {
    return resolve(with({{"GPU_TYPE", gpu}, {"JOB_TOTAL_GPUS", gpus}, {"NEREUS_PRESET", "newer"}}));
  };
  for (const char* gpu : {"h100", "H200"}) {
    const auto train = newer(gpu, "1024").train;
    EXPECT_THAT(train, Contains("--parallelism.data_parallel_shard_degree=128"));
    EXPECT_THAT(train, Contains("--parallelism.expert_parallel_degree=64"));
    EXPECT_THAT(train, Contains("--parallelism.pipeline_parallel_schedule=1F1B"));
    EXPECT_THAT(train, Contains("--activation_checkpoint.mode=selective"));
    EXPECT_THAT(train, Contains("--training.steps=60"));
  }
  const auto blackwell = newer("gb200", "256").train;
  EXPECT_THAT(blackwell, Contains("--parallelism.data_parallel_shard_degree=-1"));
  EXPECT_THAT(blackwell, Contains("--parallelism.pipeline_parallel_degree=1"));
  EXPECT_THAT(blackwell, Contains("--training.local_batch_size=8"));
  EXPECT_THAT(blackwell, Contains("--comm.init_timeout_seconds=1500"));
  EXPECT_THAT(newer("b200", "256").train, Not(Contains(HasSubstr("comm.init"))));
  EXPECT_THAT(resolve(with({{"GPU_TYPE", "b200"}, {"JOB_TOTAL_GPUS", "256"}})).train,
              Contains("--parallelism.data_parallel_shard_degree=32"));
}

// Settings that belong to the preset's schedule or recompute mode do not go with another.
TEST(RecipeRun, OursFitsItsGpu) {
  const auto ours = [](Variables more) {
    more["NEREUS_PRESET"] = "ours";
    return resolve(with(more)).train;
  };
  const auto h100 = ours({});
  const char *stages = "--parallelism.pipeline_parallel_layers_per_stage=2",
             *pending = "--parallelism.pipeline_parallel_pending_wgrads=1",
             *list = "--activation_checkpoint.recompute=norms,mla_up,swiglu,dispatch,gate_up",
             *every = "--activation_checkpoint.gate_up_every=2";
  for (const char* argument :
       {"--parallelism.pipeline_parallel_schedule=InterleavedZeroBubble",
        "--activation_checkpoint.mode=selective", stages, pending, list, every})
    EXPECT_THAT(h100, Contains(argument));
  const auto other = ours({{"PIPELINE_PARALLEL_SCHEDULE", "1F1B"}});
  EXPECT_THAT(other, Not(Contains(stages)));
  EXPECT_THAT(other, Not(Contains(pending)));
  EXPECT_THAT(other, Contains(list));
  EXPECT_THAT(ours({{"ACTIVATION_CHECKPOINT_MODE", "full"}}), Not(Contains(list)));
  // Without a pipeline the local batch goes row by row.
  const auto b200 = ours({{"GPU_TYPE", "b200"}, {"JOB_TOTAL_GPUS", "256"}});
  EXPECT_THAT(b200, Contains("--training.local_batch_size=2"));
  EXPECT_THAT(b200, Contains("--training.global_batch_size=2048"));
  EXPECT_THAT(b200, Not(Contains(pending)));
}

// The recipe forces h100's schedule and recompute mode over what its user set.
TEST(RecipeRun, WhatTheUserSetsWins) {
  const RecipeRun run = resolve(with({{"NEREUS_PRESET", "newer"},
                                      {"PIPELINE_PARALLEL_SCHEDULE", "GPipe"},
                                      {"ACTIVATION_CHECKPOINT_MODE", "none"},
                                      {"EXPERT_PARALLEL_DEGREE", "16"},
                                      {"LOCAL_BATCH_SIZE", "4"},
                                      {"TRAINING_STEPS", "7"},
                                      {"SEQ_LEN", "2048"},
                                      {"DATASET_PATH", "/data"},
                                      {"ENABLE_PROFILE", "true"},
                                      {"SLURM_RESTART_COUNT", "1"},
                                      {"LLMB_EXPERIMENT_DIR", "/runs/1"},
                                      {"COMM_TRAIN_TIMEOUT", "9"}}),
                                {"--optimizer.lr=1e-3"});
  for (const char* argument :
       {"--parallelism.pipeline_parallel_schedule=GPipe", "--activation_checkpoint.mode=none",
        "--parallelism.expert_parallel_degree=16", "--training.local_batch_size=4",
        "--training.steps=7", "--training.seq_len=2048", "--training.dataset_path=/data",
        "--profiling.enable_profiling=true", "--job.dump_folder=/runs/1/outputs",
        "--comm.train_timeout_seconds=9",
        "--profiling.save_traces_folder=torchtitan_deepseek-v3-torchtitan_512gpus_77_profile_"
        "trace"})
    EXPECT_THAT(run.train, Contains(argument));
  EXPECT_EQ(run.train.back(), "--optimizer.lr=1e-3");
  EXPECT_THAT(run.srun, Contains("--output=/runs/1/log-torchtitan_deepseek-v3-torchtitan_512gpus_"
                                 "%j_1.out"));
}

TEST(RecipeRun, SlurmsOptionsAndContainers) {
  const RecipeRun run = resolve(
      with({{"ADDITIONAL_SLURM_PARAMS",
             "reservation=a;exclusive; constraint=x&y,z ;;--mpi=none; nodelist = n1,n2 ;key="},
            {"RUN_CONF_IMAGE", "/images/a.sqsh"},
            {"RUN_CONF_MOUNTS", "/a:/b"},
            {"LLMB_CONTAINER_ENV", "A,B"}}));
  for (const char* option :
       {"--reservation=a", "--exclusive", "--constraint=x&y,z", "--mpi=none", "--nodelist=n1,n2",
        "--container-image=/images/a.sqsh", "--container-env=A,B"})
    EXPECT_THAT(run.srun, Contains(option));
  const std::string l = "/lustre/llmb", w = l + "/workloads/pretrain_deepseek-v3-torchtitan";
  const std::string tokenizer = w + "/torchtitan/assets/hf/DeepSeek-V3.1-Base";
  const std::string recipe = "/repo/recipes/deepseek_v3", data = l + "/datasets/c4";
  EXPECT_THAT(run.srun, Contains("--container-mounts=" + run.experiment + ":" + run.experiment +
                                 "," + recipe + ":" + recipe + ":ro," + data + ":" + data + ":ro," +
                                 tokenizer + ":" + tokenizer + ":ro,/opt:/opt:ro,/a:/b"));
  EXPECT_THAT(resolve(with({})).srun, Not(Contains(HasSubstr("container"))));
}

TEST(RecipeRun, TheNodesAreCheckedBeforeWhenAsked) {
  EXPECT_THAT(resolve(with({})).doctor, testing::IsEmpty());
  const RecipeRun run = resolve(with({{"NEREUS_DOCTOR", "true"}}));
  EXPECT_THAT(run.doctor, testing::ElementsAre("srun", "--ntasks=64", "--ntasks-per-node=1",
                                               "--kill-on-bad-exit=0", "/opt/nereus", "doctor",
                                               "--brief", "--no-hub", "--gpus=8",
                                               "--folder=" + run.outputs, "--write-mib=64"));
  const RecipeRun other = resolve(with({{"NEREUS_DOCTOR", "True"},
                                        {"GPUS_PER_NODE", "0"},
                                        {"SLURM_JOB_NUM_NODES", "2"},
                                        {"RUN_CONF_IMAGE", "/a.sqsh"}}));
  EXPECT_THAT(other.doctor,
              testing::IsSupersetOf({"--ntasks=2", "--gpus=0", "--container-image=/a.sqsh"}));
  const auto doctor = [](Variables more) {
    more["NEREUS_DOCTOR"] = "true";
    return resolve(with(more)).doctor;
  };
  EXPECT_THAT(doctor({{"SLURM_GPUS_PER_NODE", "h100:4"}}),
              testing::IsSupersetOf({"--ntasks=128", "--gpus=4"}));
  EXPECT_THAT(doctor({{"SBATCH_GRES", "nvme:1"}}), testing::Contains("--gpus=8"));
  EXPECT_THAT(doctor({{"SBATCH_GRES", "gpu:h100:16(S:0-1),mps:100"}}),
              testing::IsSupersetOf({"--ntasks=32", "--gpus=16"}));
}

TEST(RecipeRun, RefusesWithTheRecipesTexts) {
  const auto refusal = [](const Variables& v) {
    try {
      resolve(v);
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), Fault::kConfig);
      return std::string(e.what());
    }
    return std::string("no error");
  };
  EXPECT_EQ(refusal({}), "GPU_TYPE is a required variable.");
  EXPECT_EQ(refusal({{"GPU_TYPE", "h100"}}), "JOB_TOTAL_GPUS is a required variable.");
  EXPECT_EQ(refusal({{"GPU_TYPE", "h100"}, {"JOB_TOTAL_GPUS", "512"}}),
            "Please set LLMB_INSTALL to the path of the installation directory for all workloads");
  EXPECT_EQ(refusal({{"GPU_TYPE", "A100"}}),
            "Torchtitan recipes only supports h100, b200, and gb200 GPU types, got "
            "'A100'\n  Nereus takes h200 too, with h100's settings.");
  EXPECT_EQ(refusal(with({{"DTYPE", "FP8"}})),
            "FP8 is not supported for this TorchTitan DeepSeek-V3 recipe yet (WIP). "
            "Supported DTYPE: bf16. Got DTYPE='FP8'.");
  EXPECT_EQ(refusal(with({{"DTYPE", "int8"}})), "Supported DTYPE: bf16, fp8. Got DTYPE='int8'.");
  EXPECT_EQ(refusal(with({{"JOB_TOTAL_GPUS", "many"}})),
            "JOB_TOTAL_GPUS = \"many\": it must be a whole number, 1 to 999999999.");
  EXPECT_EQ(refusal(with({{"DATA_PARALLEL_SHARD_DEGREE", "-2"}})),
            "DATA_PARALLEL_SHARD_DEGREE = \"-2\": it must be a whole number, 1 to 999999999, or "
            "-1.");
  EXPECT_EQ(refusal(with({{"NEREUS_DOCTOR", "true"}, {"GPUS_PER_NODE", "-1"}})),
            "GPUS_PER_NODE = \"-1\": it must be a whole number, 0 to 1024.");
  for (const char* name :
       {"JOB_TOTAL_GPUS", "PIPELINE_PARALLEL_DEGREE", "EXPERT_PARALLEL_DEGREE", "TRAINING_STEPS",
        "SEQ_LEN", "LOCAL_BATCH_SIZE", "COMM_INIT_TIMEOUT", "COMM_TRAIN_TIMEOUT"}) {
    Variables v = with({});
    for (const char* wrong : {"-1", "0", "4000000000"}) {
      v[name] = wrong;
      EXPECT_EQ(refusal(v), fmt::format("{} = \"{}\": it must be a whole number, 1 to 999999999.",
                                        name, wrong));
    }
  }
  Variables rest = with({});
  rest["DATA_PARALLEL_SHARD_DEGREE"] = "-1";
  EXPECT_EQ(refusal(rest), "no error");
  EXPECT_EQ(refusal(with({{"JOB_TOTAL_GPUS", "500"}})),
            "JOB_TOTAL_GPUS = 500 is not a multiple of PIPELINE_PARALLEL_DEGREE = 8: use 496 or "
            "504 GPUs, or another degree.");
  EXPECT_EQ(refusal(with({{"DATA_PARALLEL_SHARD_DEGREE", "32"}})),
            "DATA_PARALLEL_SHARD_DEGREE = 32 times PIPELINE_PARALLEL_DEGREE = 8 is 256, and "
            "JOB_TOTAL_GPUS is 512: set DATA_PARALLEL_SHARD_DEGREE to 64 or -1.");
  EXPECT_EQ(refusal(with({{"EXPERT_PARALLEL_DEGREE", "48"}})),
            "EXPERT_PARALLEL_DEGREE = 48 does not divide the 64 GPUs of a pipeline stage "
            "(JOB_TOTAL_GPUS = 512 over PIPELINE_PARALLEL_DEGREE = 8): set it to a divisor.");
  EXPECT_EQ(refusal(with({{"NEREUS_PRESET", "best"}})),
            "NEREUS_PRESET = \"best\": it must be one of original, newer, ours.");
}

}  // namespace
}  // namespace nereus::recipe
