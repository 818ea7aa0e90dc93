#include "recipe/submit.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>

#include "recipe/installation_test.h"

namespace nereus::recipe {
namespace {

namespace fs = std::filesystem;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::Pair;

constexpr int64_t kTime = 1'764'000'000;

class Submit : public testing::Test {
 protected:
  Installation there_;
  SlurmOptions options_;
  std::vector<std::string> arguments_;

  Submitter submitter() const {
    Submitter s(there_.config, there_.workloads, there_.environment, "/opt/nereus/nereus", options_,
                arguments_);
    s.now = [] { return kTime; };
    s.wait = [] {};
    return s;
  }
  static Task task(int64_t scale = 512) {
    return {.workload = kKey, .size = "671b", .dtype = "bf16", .scale = scale};
  }
  std::string run_folder() const { return submitter().folder(task(), kTime); }
};

TEST_F(Submit, SbatchGetsTheRecipesArguments) {
  const std::string folder = there_.config.llmb_install + "/workloads/" + kKey + "/experiments/" +
                             kKey + "_671b_bf16_gpus512/1764000000";
  EXPECT_EQ(run_folder(), folder);
  const std::string script = there_.config.llmb_repo + "/recipes/deepseek_v3/launch.sh";
  EXPECT_THAT(
      submitter().command(task(), folder),
      ElementsAre("sbatch", "--parsable", "--output=" + folder + "/slurm-%j.out", "-J",
                  std::string(kKey) + "_671b_bf16", "-N", "64", "--ntasks-per-node=8", script));
  EXPECT_THAT(submitter().command(task(4), folder), Contains("--ntasks-per-node=4"));
  EXPECT_THAT(submitter().command(task(12), folder), Contains("2"));
  options_ = {.nodelist = "n[0-63]",
              .exclude = "n9",
              .reservation = "r",
              .segment = 16,
              .nice = 100,
              .more = {"constraint=x&y", "exclusive"}};
  arguments_ = {"--metrics.log_freq=1"};
  const std::vector<std::string> command = submitter().command(task(), folder);
  EXPECT_THAT(
      std::vector<std::string>(command.begin() + 8, command.end()),
      ElementsAre("--nodelist=n[0-63]", "--exclude=n9", "--reservation=r", "--segment=16",
                  "--nice=100", "--constraint=x&y", "--exclusive", script, "--metrics.log_freq=1"));
}

// The job knows it too: NEREUS_DOCTOR looks whether they are there.
TEST_F(Submit, TheGpusOfANodeAreWhatSlurmIsAskedFor) {
  const auto nodes = [&](const std::string& gres, const Variables& environment = {}) {
    if (gres.empty())
      there_.config.gpu.erase("gres");
    else
      there_.config.gpu["gres"] = gres;
    Task t = task();
    t.environment = environment;
    const std::vector<std::string> command = submitter().command(t, "/run");
    return fmt::format("{} {} {}", *(std::find(command.begin(), command.end(), "-N") + 1),
                       command[7], submitter().variables(t, "/run").at("GPUS_PER_NODE"));
  };
  EXPECT_EQ(nodes("4"), "128 --ntasks-per-node=4 4");
  EXPECT_EQ(nodes("h100:4"), "128 --ntasks-per-node=4 4");
  EXPECT_EQ(nodes("gpu:h100:4"), "128 --ntasks-per-node=4 4");
  EXPECT_EQ(nodes("gpu:4"), "128 --ntasks-per-node=4 4");
  EXPECT_EQ(nodes("nvme:1,gpu:h100:4(S:0,1)"), "128 --ntasks-per-node=4 4");
  EXPECT_EQ(nodes(""), "64 --ntasks-per-node=8 8");
  EXPECT_EQ(nodes("gpu"), "64 --ntasks-per-node=8 8");
  EXPECT_EQ(nodes("4", {{"GPUS_PER_NODE", "16"}}), "32 --ntasks-per-node=16 16");
  EXPECT_EQ(nodes("4", {{"SBATCH_GPUS_PER_NODE", "h100:2"}}), "256 --ntasks-per-node=2 2");
  there_.config.gpu_type = "gb200";
  EXPECT_EQ(nodes(""), "128 --ntasks-per-node=4 4");
}

TEST_F(Submit, Gb200GetsASegmentThatDividesItsNodes) {
  const Installation gb200("gb200");
  const auto segment = [&](int64_t gpus, SlurmOptions options, Variables environment) {
    const Submitter s(gb200.config, gb200.workloads, std::move(environment), "/nereus",
                      std::move(options), {});
    for (const std::string& word : s.command(task(gpus), "/x"))
      if (word.starts_with("--segment")) return word;
    return std::string();
  };
  EXPECT_EQ(segment(256, {}, {}), "--segment=16");
  EXPECT_EQ(segment(72, {}, {}), "--segment=18");
  EXPECT_EQ(segment(4 * 19, {}, {}), "--segment=1");
  EXPECT_EQ(segment(256, {}, {{"SBATCH_SEGMENT_SIZE", "8"}}), "--segment=8");
  EXPECT_EQ(segment(256, {.segment = 4}, {{"SBATCH_SEGMENT_SIZE", "8"}}), "--segment=4");
}

TEST_F(Submit, WhatStandsLaterWins) {
  there_.environment["LLMB_CONTAINER_ENV"] = "OLD";
  there_.config.environment = {{"A", "cluster"}, {"B", "cluster"}, {"C", "cluster"}};
  there_.config.workloads[kKey].environment = {{"B", "workload"}, {"C", "workload"}};
  Task t = task();
  t.profile = true;
  t.environment = {{"C", "task"}, {"SBATCH_PARTITION", "other"}};
  t.parameters = {{"local_batch_size", "8"}};
  const Variables v = submitter().variables(t, "/run");
  EXPECT_EQ(v.at("A"), "cluster");
  EXPECT_EQ(v.at("B"), "workload");
  EXPECT_EQ(v.at("C"), "task");
  EXPECT_EQ(v.at("SBATCH_PARTITION"), "other");
  EXPECT_EQ(v.at("SBATCH_ACCOUNT"), "research");
  EXPECT_EQ(v.at("SBATCH_GPUS_PER_NODE"), "8");
  EXPECT_EQ(v.at("ENABLE_PROFILE"), "true");
  EXPECT_EQ(v.at("LOCAL_BATCH_SIZE"), "8");
  EXPECT_EQ(v.at("LLMB_CONTAINER_ENV"), "OLD,C,SBATCH_PARTITION");
  EXPECT_EQ(v.at("LLMB_EXPERIMENT_DIR"), "/run");
  EXPECT_EQ(v.at("JOB_TOTAL_GPUS"), "512");
  EXPECT_EQ(v.at("GPU_TYPE"), "h100");
  EXPECT_EQ(v.at("NEREUS_BIN"), "/opt/nereus/nereus");
  there_.environment["NEREUS_BIN"] = "/mine";
  EXPECT_EQ(submitter().variables(t, "/run").count("NEREUS_BIN"), 0u);
}

// A sbatch that writes what it was called with into the run's folder.
TEST_F(Submit, AJobHasAFolderWithItsConfiguration) {
  there_.program("sbatch", R"(echo "$PWD" "$@" >"$LLMB_EXPERIMENT_DIR/called"
env >"$LLMB_EXPERIMENT_DIR/env"
echo "4711;north")");
  there_.environment["SBATCH_SEGMENT_SIZE"] = "2";
  Task t = task();
  t.environment = {{"HF_TOKEN", "hf_x"}, {"NCCL_DEBUG", "INFO"}};
  const SubmittedJob job = submitter().submit(t);
  EXPECT_EQ(job.id, 4711);
  EXPECT_EQ(job.folder, run_folder());
  EXPECT_EQ(job.config, run_folder() + "/llmb-config_4711.yaml");
  const std::string script_folder = there_.config.llmb_repo + "/recipes/deepseek_v3";
  EXPECT_THAT(test::read_file(job.folder + "/called"),
              testing::StartsWith(script_folder + " --parsable --output="));
  EXPECT_THAT(test::read_file(job.folder + "/called"), HasSubstr("--segment=2"));
  const std::string environment = test::read_file(job.folder + "/env");
  EXPECT_THAT(environment, HasSubstr("HF_TOKEN=hf_x\n"));
  EXPECT_THAT(environment, HasSubstr("NCCL_DEBUG=INFO\n"));
  EXPECT_THAT(environment, Not(HasSubstr("SBATCH_SEGMENT_SIZE")));

  const std::string text = test::read_file(job.config);
  EXPECT_EQ(text,
            R"(job_info:
  job_id: "4711"
  launcher_type: "configured_sbatch"
  launch_time: ")" +
                local_time(kTime) +
                R"("
  experiment_id: ~
workload_info:
  framework: "nereus"
  gsw_version: "0.1.0"
  fw_version: "0.1.0"
  workload_type: "pretrain"
  synthetic_dataset: false
model_info:
  model_name: "deepseek-v3-torchtitan"
  model_size: "671b"
  dtype: "bf16"
  scale: 512
  gpu_type: "h100"
cluster_info:
  cluster_name: "north"
  gpus_per_node: "8"
  llmb_install: ")" +
                there_.config.llmb_install + "\"\n  llmb_repo: \"" + there_.config.llmb_repo +
                R"("
  slurm_account: "research"
  slurm_gpu_partition: "batch"
  slurm_cpu_partition: "batch"
container_info:
  images:
    []
job_config:
  profile_enabled: false
  proxy: false
  strong_scaling: false
  env_overrides:
    HF_TOKEN: "..."
    NCCL_DEBUG: "INFO"
  model_overrides:
    {}
)");
  const std::optional<RunConfig> again = read_run_config(job.config);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->job_id, "4711");
  EXPECT_EQ(again->scale, 512);
  EXPECT_THAT(again->env_overrides,
              ElementsAre(Pair("HF_TOKEN", "..."), Pair("NCCL_DEBUG", "INFO")));
}

// sbatch answers, and the folder is gone.
TEST_F(Submit, AJobWhoseFileCannotBeWrittenIsInTheQueueAllTheSame) {
  there_.program("sbatch", R"(rmdir "$LLMB_EXPERIMENT_DIR"
echo 'sbatch: warning: slow' >&2
echo 5)");
  const SubmittedJob job = submitter().submit(task());
  EXPECT_EQ(job.id, 5);
  EXPECT_THAT(job.warnings,
              ElementsAre("sbatch: warning: slow",
                          "job 5 was submitted, but not described: " + job.config +
                              ": cannot be written: No such file or directory. Its folder must "
                              "exist and be writable."));
}

TEST_F(Submit, WhatSbatchSaysIsPassedOnAndNothingIsLeft) {
  there_.program("sbatch",
                 "echo 'sbatch: error: invalid partition specified: batch' >&2\n"
                 "echo 'sbatch: error: Batch job submission failed' >&2\nexit 1");
  EXPECT_EQ(refusal([&] { submitter().submit(task()); }),
            "sbatch: error: invalid partition specified: batch\nsbatch: error: Batch job "
            "submission failed");
  EXPECT_FALSE(fs::exists(fs::path(run_folder()).parent_path()));
  there_.program("sbatch", "echo hello");
  EXPECT_EQ(refusal([&] { submitter().submit(task()); }),
            "Unable to parse Slurm job id from 'hello\n'.");
  there_.environment["PATH"] = "/nowhere";
  EXPECT_EQ(refusal([&] { submitter().submit(task()); }),
            "sbatch: not found in PATH. Submit from a login node of the cluster, or look at the "
            "jobs with --dry-run.");
}

// It may have told the controller before it hung.
TEST_F(Submit, AfterASbatchThatDoesNotAnswerTheFolderStays) {
  there_.program("sbatch", "echo 'sbatch: error: timed out, retrying' >&2; exec sleep 60");
  Submitter s = submitter();
  s.sbatch_seconds = 1;
  try {
    s.submit(task());
    ADD_FAILURE() << "submitted";
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::kIo);
    EXPECT_EQ(e.what(),
              "sbatch: error: timed out, retrying\nsbatch did not answer within 1 s. The job may "
              "have been submitted anyway: see `squeue --me`. It would run in " +
                  run_folder() + ", which is kept, and is not in the job history.");
  }
  EXPECT_TRUE(fs::exists(run_folder()));
}

TEST_F(Submit, SlurmIsAskedForTheClustersNameOnce) {
  there_.config.cluster_name.clear();
  there_.program("sbatch", "echo 1");
  there_.program("scontrol", "echo \"$@\" >>" + there_.folder.file("asked") +
                                 "\necho 'Configuration data'\necho 'ClusterName             = "
                                 "south '");
  Submitter s = submitter();
  int64_t time = kTime;
  s.now = [&time] { return time++; };
  for (int i = 0; i < 3; ++i)
    EXPECT_THAT(test::read_file(s.submit(task()).config), HasSubstr("cluster_name: \"south\"\n"));
  EXPECT_EQ(test::read_file(there_.folder.file("asked")), "show config\n");
}

TEST_F(Submit, AFolderThatIsThereIsNotUsedAgain) {
  there_.program("sbatch", "echo 1");
  there_.run_folder(std::to_string(kTime));
  Submitter s = submitter();
  int waited = 0;
  s.wait = [&waited] { ++waited; };
  EXPECT_EQ(refusal([&] { s.submit(task()); }),
            "Failed to create unique experiment directory after 3 attempts: " + run_folder() +
                " is there already.");
  EXPECT_EQ(waited, 2);
  s.now = [&waited] { return kTime + waited; };
  waited = 0;
  EXPECT_EQ(s.submit(task()).folder, s.folder(task(), kTime + 1));
}

TEST_F(Submit, ChecksWhatCouldNeverRun) {
  const auto refused = [&](const Variables& environment) {
    Task t = task();
    t.environment = environment;
    return refusal([&] { submitter().check(t); });
  };
  EXPECT_EQ(refused({{"DATA_PARALLEL_SHARD_DEGREE", "32"}}),
            "DATA_PARALLEL_SHARD_DEGREE = 32 times PIPELINE_PARALLEL_DEGREE = 8 is 256, and "
            "JOB_TOTAL_GPUS is 512: set DATA_PARALLEL_SHARD_DEGREE to 64 or -1.");
  EXPECT_EQ(refused({{"EXPERT_PARALLEL_DEGREE", "48"}}),
            "EXPERT_PARALLEL_DEGREE = 48 does not divide the 64 GPUs of a pipeline stage "
            "(JOB_TOTAL_GPUS = 512 over PIPELINE_PARALLEL_DEGREE = 8): set it to a divisor.");
  EXPECT_EQ(refused({{"GPUS_PER_NODE", "none"}}),
            "GPUS_PER_NODE = \"none\": it must be a whole number, 1 to 1024.");
  options_.nice = 1;
  EXPECT_EQ(refused({{"ADDITIONAL_SLURM_PARAMS", "exclusive"}}),
            "Cannot combine first-class Slurm CLI flags with ADDITIONAL_SLURM_PARAMS from task "
            "environment overrides.");
  there_.config.environment["ADDITIONAL_SLURM_PARAMS"] = "a=b";
  EXPECT_EQ(refused({}),
            "Cannot combine first-class Slurm CLI flags with ADDITIONAL_SLURM_PARAMS from cluster "
            "config environment.");
  there_.workloads[kKey].launcher_type = "nemo";
  EXPECT_THAT(refused({}), HasSubstr("its launcher_type is \"nemo\""));
}

// What it asks of the runs, and what becomes of the answers.
TEST_F(Submit, HoldsARunAgainstWhatItNeeds) {
  RecipeRun asked;
  RunFacts facts = {.lines = {"memory 1 GiB"}};
  const auto check = [&](Purpose purpose, bool force = false) {
    Submitter s = submitter();
    s.force = force;
    s.run_check = [&](const RecipeRun& run) {
      asked = run;
      return facts;
    };
    Task t = task();
    t.environment = {{"LOG_RANK", "3"}};
    return s.check(t, purpose);
  };
  there_.program("sbatch", "echo 1");
  EXPECT_THAT(check(Purpose::queue).facts, ElementsAre("memory 1 GiB"));
  EXPECT_EQ(asked.gpus, 512);
  EXPECT_EQ(asked.log_rank, "3");
  EXPECT_THAT(asked.train,
              Contains("--training.dataset_path=" + there_.config.llmb_install + "/datasets/c4"));
  facts.too_large = "it needs 90 GiB.\nTABLE";
  EXPECT_EQ(refusal([&] { check(Purpose::queue); }),
            "it needs 90 GiB.\nTABLE\n  --force starts it anyway.");
  EXPECT_EQ(refusal([&] { check(Purpose::look); }), refusal([&] { check(Purpose::queue); }));
  EXPECT_THAT(check(Purpose::queue, true).warnings,
              ElementsAre("it needs 90 GiB. Started anyway (--force)."));
  Submitter s = submitter();
  s.force = true;
  EXPECT_THAT(s.command(task(), "/run"), Contains("--force"));
}

TEST_F(Submit, WarnsWhereThereIsNoSbatch) {
  there_.environment["PATH"] = "/nowhere";
  EXPECT_THAT(submitter().check(task()).warnings,
              ElementsAre("sbatch is not in PATH: jobs are submitted from a login node of the "
                          "cluster."));
}

TEST_F(Submit, SlurmsOptionsHaveOneForm) {
  const auto refused = [](std::vector<std::string> more) {
    return refusal([&] { SlurmOptions{.more = std::move(more)}.words(); });
  };
  EXPECT_EQ(refused({" "}), "`--slurm-arg` cannot be empty.");
  EXPECT_EQ(refused({"--exclusive"}),
            "`--slurm-arg` values should not include a leading '--'. Use `constraint=gpu` or "
            "`exclusive` instead.");
  EXPECT_EQ(refused({"a="}),
            "`--slurm-arg` assignments must be in `key=value` form with non-empty key and value.");
  EXPECT_EQ(refused({"nice=3"}),
            "`nice` has a dedicated flag. Use `--nice` instead of `--slurm-arg nice=3`.");
  EXPECT_EQ(refused({"a=1", "a"}), "Duplicate Slurm parameter 'a' was specified more than once.");
}

}  // namespace
}  // namespace nereus::recipe
