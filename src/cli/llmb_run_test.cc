// The commands submit, list, jobs and archive, under llmb-run's name and under their own.
#include "cli/llmb_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <map>

#include "base/error.h"
#include "cli/recipe.h"
#include "cli/submit.h"
#include "recipe/variables.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;
using recipe::Variables;
using testing::HasSubstr;
using testing::StartsWith;

const std::string kJob = "pretrain_deepseek-v3-torchtitan";

class LlmbRun : public testing::Test {
 protected:
  const test::TemporaryFolder folder_;
  const std::string old_path_ = std::getenv("PATH");
  std::string out_, err_;

  void SetUp() override {
    const char* source = std::getenv("NEREUS_SOURCE_DIR");
    folder_.write("cluster_config.yaml",
                  std::string("schema_version: 2\nllmb_repo: ") + (source ? source : ".") +
                      "\nllmb_install: " + folder_.path() +
                      "\ngpu_type: h200\ncluster_name: north\nslurm: {gpu: {partition: batch}}\n"
                      "workloads: {installed: [" +
                      kJob + "]}\n");
    fs::create_directories(folder_.file("bin"));
    setenv("LLMB_INSTALL", folder_.path().c_str(), 1);
    setenv("PATH", (folder_.file("bin") + ":" + old_path_).c_str(), 1);
    unsetenv("SLURM_JOB_ID");
    program("sacct", "exit 1");
    program("scontrol", "exit 1");
    program("squeue", "exit 1");
  }
  void TearDown() override {
    setenv("PATH", old_path_.c_str(), 1);
    unsetenv("LLMB_INSTALL");
    unsetenv("SLURM_JOB_ID");
  }
  void program(const std::string& name, const std::string& body) const {
    fs::permissions(folder_.write("bin/" + name, "#!/bin/bash\n" + body + "\n"),
                    fs::perms::owner_all);
  }
  int run(std::vector<std::string> args, int (*command)(int, char**) = run_llmb_run) {
    args.insert(args.begin(), "llmb-run");
    std::vector<char*> argv;
    argv.reserve(args.size());
    for (std::string& arg : args) argv.push_back(arg.data());
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    int code = -1;
    try {
      code = command(static_cast<int>(argv.size()), argv.data());
    } catch (const Error& e) {
      code = e.exit_code();
      err_ = e.what();
    }
    out_ = testing::internal::GetCapturedStdout();
    const std::string err = testing::internal::GetCapturedStderr();
    if (!err.empty()) err_ = err;
    return code;
  }
  static std::vector<std::string> submit(const std::vector<std::string>& more) {
    std::vector<std::string> all = {"submit",  "-w",   kJob,      "-s", "671b",
                                    "--dtype", "bf16", "--scale", "512"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  const std::vector<std::string> submit_ = submit({"--", "--training.dataset=random"});
};

TEST_F(LlmbRun, ADryRunPrintsTheJobsAndSubmitsNothing) {
  program("sbatch", "touch " + folder_.file("called"));
  EXPECT_EQ(run(submit({"--dry-run", "-p", "-r", "2", "--env", "HF_TOKEN=abc", "--env", "A=b",
                        "--slurm-arg", "exclusive", "--nice", "10", "--", "--training.steps=7"})),
            0);
  EXPECT_THAT(out_, StartsWith("Jobs (2):\n  - " + kJob +
                               "_671b dtype=bf16 scale=512 profile=yes env=(A=b HF_TOKEN=...)\n"));
  EXPECT_THAT(out_, HasSubstr("\n        JOB_TOTAL_GPUS=512\n"));
  EXPECT_THAT(out_, HasSubstr(" -N 64 \\\n          --ntasks-per-node=8 \\\n          --nice=10 "
                              "\\\n          --exclusive \\\n"));
  EXPECT_THAT(out_, HasSubstr("launch.sh \\\n          --training.steps=7\n"));
  EXPECT_THAT(out_, HasSubstr("\n        HF_TOKEN=...\n"));
  EXPECT_THAT(out_, testing::EndsWith("Dry run: nothing was submitted.\n"));
  EXPECT_THAT(
      out_,
      HasSubstr("\n      pp 8 x dp_shard 64, ep 32; batch 16 a GPU, 1024 in all; 7 steps of 4096 "
                "tokens a row\n      attention causal, routing forced balance\n      memory "));
  EXPECT_THAT(out_, HasSubstr("\n      pipeline idle for 18 % of a step "));
  EXPECT_THAT(err_, HasSubstr("WARNING: not found on this machine; the job checks again when it "
                              "starts:\n  the data set " +
                              folder_.file("datasets/c4")));
  EXPECT_EQ(err_.find("WARNING"), err_.rfind("WARNING")) << err_;
  EXPECT_FALSE(fs::exists(folder_.file("called")));
  EXPECT_FALSE(fs::exists(folder_.file("workloads")));
}

TEST_F(LlmbRun, AJobIsSubmittedRecordedShownAndArchived) {
  program("sbatch", "echo 4711");
  EXPECT_EQ(run(submit_), 0);
  EXPECT_THAT(out_, HasSubstr("SUBMITTED: " + kJob + "_671b dtype=bf16 scale=512 "));
  EXPECT_THAT(out_, HasSubstr("jobid=4711 workdir=" + folder_.file("workloads/" + kJob)));
  program("sacct", "echo '4711|RUNNING|00:00:09|2026-11-28T17:00:00|n1|0:0'");
  EXPECT_EQ(run({"jobs"}), 0);
  EXPECT_THAT(out_, HasSubstr("  2026-11-28 17:00  RUNNING       00:00:09"));
  EXPECT_EQ(run({"jobs", "show", "4711"}), 0);
  EXPECT_THAT(out_, HasSubstr("\nNode List    : n1\n"));
  EXPECT_EQ(run({"jobs", "log", "4711", "--dir"}), 0);
  const std::string run_folder = out_.substr(0, out_.size() - 1);
  EXPECT_EQ(run({"jobs", "log", "4711"}), 1);
  EXPECT_EQ(err_, "ERROR: No log file found for job 4711 in " + run_folder + ".\n");
  folder_.write(fs::path(run_folder + "/log-x_4711_0.out").lexically_relative(folder_.path()),
                "a\nb\nc\n");
  EXPECT_EQ(run({"jobs", "log", "4711", "--tail", "2"}), 0);
  EXPECT_EQ(out_, "b\nc\n");
  // Of a run that did not come to its end, the errors too.
  const auto file = [&](const std::string& name, const std::string& text) {
    return folder_.write(fs::path(run_folder + "/" + name).lexically_relative(folder_.path()),
                         text);
  };
  const std::string errors = file("log-x_4711_0.err", "error: the disk is full\n");
  EXPECT_EQ(run({"jobs", "log", "4711", "--tail", "1"}), 0);
  EXPECT_EQ(out_, "c\n\n==> " + errors + " <==\nerror: the disk is full\n");
  const std::string log = file("log-x_4711_0.out", "");
  EXPECT_EQ(run({"jobs", "log", "4711"}), 0);
  EXPECT_EQ(out_, "==> " + errors + " <==\nerror: the disk is full\n");
  EXPECT_EQ(run({"jobs", "log", "4711", "--list"}), 0);
  EXPECT_EQ(out_, "0: " + log + " (active)\n   " + errors + " (errors)\n");
  EXPECT_EQ(run({"jobs", "log", "4711", "--path"}), 0);
  EXPECT_EQ(out_, log + "\n");
  file("log-x_4711_0.err", "");
  const std::string slurm = file("slurm-4711.out", "srun: error: n1: task 3: Killed\n");
  EXPECT_EQ(run({"jobs", "log", "4711"}), 0);
  EXPECT_EQ(out_, "==> " + slurm + " <==\nsrun: error: n1: task 3: Killed\n");
  file("log-x_4711_0.out", "[titan] Training completed\n");
  file("log-x_4711_0.err", "a library's noise\n");
  EXPECT_EQ(run({"jobs", "log", "4711"}), 0);
  EXPECT_EQ(out_, "[titan] Training completed\n");
  fs::remove(errors);
  EXPECT_EQ(run({"jobs", "log", "4711", "--list"}), 0);
  EXPECT_EQ(out_, "0: " + run_folder + "/log-x_4711_0.out (active)\n");
  const auto of_run = [&](const char* name) {
    return fs::path(run_folder + "/outputs/" + name).lexically_relative(folder_.path());
  };
  folder_.write(of_run("metrics.jsonl"),
                R"({"step":1,"loss":3,"step_seconds":1}
{"step":2,"loss":2,"step_seconds":1}
)");
  folder_.write(of_run("events.jsonl"), R"({"time":100,"step":0,"kind":"start","setup_seconds":1}
{"time":103,"step":2,"kind":"end","exit_code":0}
)");
  program("sacct", "echo '4711|COMPLETED|00:00:09|2026-11-28T17:00:00|n1|0:0'");
  EXPECT_EQ(run({"jobs"}), 0);
  EXPECT_THAT(out_, HasSubstr("    50.0%\n"));  // 2 of 4 seconds
  EXPECT_EQ(run({"jobs", "show", "4711"}), 0);
  EXPECT_THAT(out_, HasSubstr("\nGoodput      : 50.0%\n"));
  EXPECT_EQ(run({"jobs", "report", "4711"}), 0);
  EXPECT_THAT(out_, HasSubstr("\nReport: " + run_folder + "/report.html\n"));
  EXPECT_TRUE(fs::exists(run_folder + "/report.html"));
  EXPECT_EQ(run({"jobs", "report", "4712"}), 1);
  EXPECT_THAT(err_, HasSubstr("Job 4712 was not found in the job history."));
  EXPECT_EQ(run({"jobs", "refresh", "4711"}), 0);
  EXPECT_EQ(out_, "Refreshed 1 job status records.\n");
  EXPECT_EQ(run({"jobs", "rebuild"}), 0);
  EXPECT_THAT(out_, HasSubstr("Found 1 runs: 1 recorded, 0 skipped.\n"));
  EXPECT_EQ(run({"archive", "--output", folder_.file("a.tar.zst")}), 0);
  EXPECT_EQ(out_, "Archive created: " + folder_.file("a.tar.zst") + "\nArchived 1 run.\n");
}

TEST_F(LlmbRun, AProfileThatAVariableAsksForIsShownAndRecorded) {
  setenv("ENABLE_PROFILE", "true", 1);
  program("sbatch", "echo 12");
  EXPECT_EQ(run(submit({"--dry-run", "--", "--training.dataset=random"})), 0);
  unsetenv("ENABLE_PROFILE");
  EXPECT_THAT(out_, HasSubstr("profile=yes"));
  EXPECT_EQ(run(submit({"--env", "ENABLE_PROFILE=true", "--", "--training.dataset=random"})), 0);
  EXPECT_EQ(run({"jobs", "show", "12"}), 0);
  EXPECT_THAT(out_, HasSubstr("\nProfile      : Yes\n"));
  EXPECT_EQ(run(submit({"--env", "ENABLE_PROFILE=false", "-p", "--", "--training.dataset=random"})),
            0);
  EXPECT_THAT(out_, testing::Not(HasSubstr("profile=yes"))) << "--env wins over -p in the job";
}

// By every way that a variable has to the job.
TEST_F(LlmbRun, SecretsReachTheJobAndNothingThatIsShownOrKept) {
  const test::TemporaryFolder outside;
  const Variables secrets = {
      {"HF_TOKEN", "s1-option"},       {"my_secret", "s2-option"},
      {"WANDB_API_KEY", "s3-cluster"}, {"S3_SECRET_ACCESS_KEY", "s4-workload"},
      {"Mlflow_Password", "s5-file"},  {"COMET_API_KEY", "s6-defaults"},
      {"OTHER_TOKEN", "s7-params"}};
  const std::string config =
      folder_.write("cluster_config.yaml", test::read_file(folder_.file("cluster_config.yaml")) +
                                               "environment: {WANDB_API_KEY: s3-cluster}\n");
  std::string text = test::read_file(config);
  const std::string installed = "installed: [" + kJob + "]";
  text.insert(text.find(installed) + installed.size(),
              ", config: {" + kJob + ": {environment: {S3_SECRET_ACCESS_KEY: s4-workload}}}");
  folder_.write("cluster_config.yaml", text);
  const std::string tasks = outside.write(
      "jobs.yaml", kJob +
                       "_671b:\n  defaults: {env: {COMET_API_KEY: s6-defaults}}\n  tasks:\n"
                       "    - {dtypes: bf16, scales: 512, overrides: {env: {Mlflow_Password: "
                       "s5-file}, params: {other_token: s7-params}}}\n");
  program("sbatch", "env >" + outside.file("env") + "; echo \"$@\" >" + outside.file("called") +
                        "; echo 'sbatch: slow' >&2; echo 4711");
  std::string shown;
  const auto call = [&](const std::vector<std::string>& words) {
    EXPECT_EQ(run(words), 0);
    shown += out_ + err_;
  };
  const std::vector<std::string> submit = {
      "submit", "-f", tasks, "--env", "HF_TOKEN=s1-option", "--env", "my_secret=s2-option"};
  std::vector<std::string> dry = submit;
  dry.push_back("--dry-run");
  call(dry);
  EXPECT_THAT(out_,
              HasSubstr("env=(COMET_API_KEY=... HF_TOKEN=... Mlflow_Password=... my_secret=...) "
                        "params=(other_token=...)"));
  for (const auto& [name, value] : secrets) EXPECT_THAT(out_, HasSubstr(name + "=...\n"));
  std::vector<std::string> real = submit;
  real.insert(real.end(), {"--", "--training.dataset=random"});
  call(real);
  call({"jobs"});
  call({"jobs", "show", "4711"});
  call({"jobs", "rebuild"});
  const std::string environment = "\n" + test::read_file(outside.file("env"));
  for (const auto& [name, value] : secrets)
    EXPECT_THAT(environment, HasSubstr("\n" + name + "=" + value + "\n"));

  shown += test::read_file(outside.file("called"));
  EXPECT_THAT(shown, HasSubstr("--parsable --output="));
  EXPECT_TRUE(fs::exists(folder_.file(".llmb/jobs.sqlite3")));
  std::map<std::string, std::string> texts = {{"shown, and sbatch's command line", shown}};
  int with_names = 0;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder_.path()))
    if (entry.is_regular_file() && entry.path() != config)
      texts[entry.path()] = test::read_file(entry.path());
  for (const auto& [place, bytes] : texts) {
    with_names += bytes.find("other_token") != std::string::npos;
    for (const auto& [name, value] : secrets)
      EXPECT_THAT(bytes, testing::Not(HasSubstr(value))) << name << " in " << place;
  }
  EXPECT_EQ(with_names, 3) << "what is shown, llmb-config and the database have the names";
}

TEST_F(LlmbRun, ItsExitCodesAreOneForTheUserAndTwoForTheSystem) {
  EXPECT_EQ(run({"list"}), 0);
  EXPECT_THAT(out_, HasSubstr("Scales: 512, 1024"));
  EXPECT_EQ(run({"list", "-w", "pretrain_x"}), 1);
  EXPECT_THAT(err_, StartsWith("ERROR: Workload 'pretrain_x' not found."));
  EXPECT_EQ(run(submit({"--env", "A=$(x)"})), 1);
  EXPECT_EQ(run(submit({"--dtipe", "bf16"})), 1);
  EXPECT_THAT(err_, HasSubstr("did you mean --dtype?"));
  EXPECT_EQ(run({"jobs", "show", "1"}), 1);
  EXPECT_EQ(run({"jobs", "refresh", "1", "2"}), 1);
  EXPECT_EQ(err_, "ERROR: Job ID(s) not found in the job history: 1, 2.\n");
  EXPECT_EQ(run({"exemplar"}), 1);
  EXPECT_EQ(run({"sumbit"}), 1);

  program("sbatch",
          "echo 'sbatch: error: Batch job submission failed: Invalid account' >&2\nexit 1");
  EXPECT_EQ(run(submit_), 2);
  EXPECT_THAT(err_, HasSubstr("error=sbatch: error: Batch job submission failed: Invalid account\n"
                              "ERROR: Submission error: Failed to launch 1 out of 1 tasks.\n"));
  program("sbatch", "echo 1");
  EXPECT_EQ(run(submit_), 0);
  EXPECT_EQ(run({"jobs", "refresh", "1"}), 2);
  EXPECT_THAT(err_, StartsWith("ERROR: sacct unavailable; status may be stale"));

  setenv("SLURM_JOB_ID", "5", 1);
  EXPECT_EQ(run({"jobs"}), 1);
  EXPECT_EQ(err_,
            "ERROR: 🚫: `llmb-run` does not currently support running within a SLURM allocation. "
            "Please run this script directly from a login node outside of a SLURM job.\n");
  EXPECT_EQ(run({"--dry-run"}, run_submit), 2);
  EXPECT_EQ(err_,
            "nereus submit does not run within a Slurm allocation (SLURM_JOB_ID = 5), whose "
            "settings sbatch would take over: run it on a login node, outside of a job.");
}

TEST_F(LlmbRun, TheCheckOfTheNodesEndsWithWhatSrunSaid) {
  program("srun", "echo '| n1 | FAILED |'; echo 'srun: error: n2: not responding' >&2; exit 3");
  const Variables settings = {
      {"GPU_TYPE", "h200"}, {"JOB_TOTAL_GPUS", "512"}, {"NEREUS_DOCTOR", "true"}};
  for (const auto& [name, value] : settings) setenv(name.c_str(), value.c_str(), 1);
  const char* source = std::getenv("NEREUS_SOURCE_DIR");
  const std::string recipe = std::string(source ? source : ".") + "/recipes/deepseek_v3";
  EXPECT_EQ(run({"launch", "--recipe", recipe, "--", "--training.dataset=random"}, run_recipe), 3);
  for (const auto& [name, value] : settings) unsetenv(name.c_str());
  EXPECT_THAT(out_, testing::EndsWith("\n| n1 | FAILED |\n"));
  EXPECT_EQ(err_,
            "error: NEREUS_DOCTOR: the check of the nodes ended with exit code 3; what is wrong is "
            "above.\nsrun said:\nsrun: error: n2: not responding\n  Leave a node out with sbatch "
            "--exclude, or start without NEREUS_DOCTOR.\n");
}

// Before a folder is made or sbatch is called, in one message.
TEST_F(LlmbRun, NothingThatCannotRunIsQueued) {
  program("sbatch", "touch " + folder_.file("called") + "; echo 12");
  const auto refused = [&](const std::vector<std::string>& more) {
    EXPECT_EQ(run(submit(more)), 1);
    EXPECT_FALSE(fs::exists(folder_.file("called")));
    EXPECT_FALSE(fs::exists(folder_.file("workloads")));
    return err_;
  };
  EXPECT_THAT(refused({}), StartsWith("ERROR: input of the run is missing:\n  the data set " +
                                      folder_.file("datasets/c4")));
  EXPECT_THAT(refused({"--", "--training.stepz=2"}), HasSubstr("training.stepz"));
  EXPECT_THAT(refused({"--env", "LOG_RANK=512", "--", "--training.dataset=random"}),
              StartsWith("ERROR: LOG_RANK names rank 512, and the run has ranks 0 to 511"));
  // Without a pipeline or recompute it needs more than any GPU has.
  const std::vector<std::string> large = {"--env", "PIPELINE_PARALLEL_DEGREE=1",
                                          "--env", "ACTIVATION_CHECKPOINT_MODE=none",
                                          "--",    "--training.dataset=random"};
  EXPECT_THAT(refused(large), testing::AllOf(StartsWith("ERROR: the run needs "),
                                             HasSubstr("a GPU of type h200 has 139.8"),
                                             HasSubstr("--force starts it anyway.\n")));
  std::vector<std::string> forced = {"--force", "--env", "LOG_RANK=511"};
  forced.insert(forced.end(), large.begin(), large.end());
  EXPECT_EQ(run(submit(forced)), 0);
  EXPECT_THAT(err_, HasSubstr("Started anyway (--force).\n"));
  EXPECT_TRUE(fs::exists(folder_.file("called")));
  // One bad task of several is named, and none is queued.
  EXPECT_EQ(run({"submit", "-w", kJob, "-s", "671b", "--scale", "512,1024", "--env", "LOG_RANK=600",
                 "--dry-run"}),
            1);
  EXPECT_THAT(err_,
              StartsWith("ERROR: " + kJob + "_671b, bf16, 512 GPUs: LOG_RANK names rank 600"));
}

TEST_F(LlmbRun, TheRecipesDryRunEndsWithTheCommand) {
  const char* source = std::getenv("NEREUS_SOURCE_DIR");
  const std::string recipe = std::string(source ? source : ".") + "/recipes/deepseek_v3";
  const auto launch = [&](Variables settings, std::vector<std::string> words) {
    settings.insert({{"GPU_TYPE", "h200"}, {"JOB_TOTAL_GPUS", "512"}});
    for (const auto& [name, value] : settings) setenv(name.c_str(), value.c_str(), 1);
    words.insert(words.begin(), {"launch", "--recipe", recipe});
    const int code = run(words, run_recipe);
    for (const auto& [name, value] : settings) unsetenv(name.c_str());
    return code;
  };
  err_.clear();
  EXPECT_EQ(launch({{"RUN_CONF_IMAGE", "/none.sqsh"}}, {"--dry-run"}), 0);
  EXPECT_THAT(err_, StartsWith("WARNING: RUN_CONF_IMAGE: this program needs this machine's "
                               "libraries in the image. "));
  EXPECT_THAT(err_, HasSubstr("\nWARNING: not found on this machine; the job checks again when it "
                              "starts:\n  the data set "));
  EXPECT_THAT(err_, HasSubstr("\n  the tokenizer (model.hf_assets_path): "));
  EXPECT_THAT(err_, HasSubstr("\n  the container image /none.sqsh "));
  EXPECT_THAT(out_,
              HasSubstr("tokens a row\n  attention causal, routing forced balance\n  memory "));
  const std::string last = out_.substr(out_.rfind('\n', out_.size() - 2) + 1);
  EXPECT_THAT(last, StartsWith("srun --ntasks=512 "));
  EXPECT_THAT(last, HasSubstr(" train --job.config_file="));
  EXPECT_THAT(last, testing::EndsWith(" --activation_checkpoint.mode=full\n"));
  EXPECT_EQ(launch({}, {"--", "--dry-run", "--optimizer.lr=1"}), 0) << "behind -- too";
  EXPECT_THAT(out_, testing::EndsWith("mode=full --optimizer.lr=1\n"));

  EXPECT_EQ(launch({}, {}), 2);
  EXPECT_THAT(err_, StartsWith("input of the run is missing:\n  the data set "));
  const Variables large = {{"PIPELINE_PARALLEL_DEGREE", "1"},
                           {"ACTIVATION_CHECKPOINT_MODE", "none"}};
  EXPECT_EQ(launch(large, {"--dry-run"}), 2);
  EXPECT_THAT(err_, StartsWith("the run needs "));
  EXPECT_EQ(launch(large, {"--dry-run", "--", "--force"}), 0);
  EXPECT_THAT(err_, HasSubstr("Started anyway (--force)."));
  EXPECT_THAT(out_, testing::Not(HasSubstr("--force")));
}

TEST_F(LlmbRun, TheRecipeAsksForItsNodesAndTasks) {
  const char* source = std::getenv("NEREUS_SOURCE_DIR");
  const std::string recipe = fs::absolute(source ? source : ".").lexically_normal() / "recipes";
  program("sbatch", "echo \"$LLMB_REPO: $*\" >" + folder_.file("called"));
  program("srun", "touch " + folder_.file("started"));
  const auto launch = [&](Variables settings, const std::vector<std::string>& more) {
    std::vector<std::string> words = {"launch", "--recipe", recipe + "/deepseek_v3"};
    words.insert(words.end(), more.begin(), more.end());
    words.insert(words.end(), {"--", "--training.dataset=random"});
    settings.insert({{"GPU_TYPE", "h200"}, {"JOB_TOTAL_GPUS", "512"}});
    for (const auto& [name, value] : settings) setenv(name.c_str(), value.c_str(), 1);
    const int code = run(words, run_recipe);
    for (const auto& [name, value] : settings) unsetenv(name.c_str());
    return code;
  };
  EXPECT_EQ(launch({{"SLURM_JOB_ID", "7"}, {"SLURM_JOB_NUM_NODES", "1"}}, {}), 2);
  EXPECT_THAT(err_, StartsWith("JOB_TOTAL_GPUS = 512 needs 64 nodes of 8 tasks, and this job has 1 "
                               "node. Submit it like this:\n  GPU_TYPE=h200 JOB_TOTAL_GPUS=512 "
                               "sbatch -N 64 --ntasks-per-node=8 " +
                               recipe + "/deepseek_v3/launch.sh\n"));
  const std::string command = "sbatch -N 64 --ntasks-per-node=8 " + recipe +
                              "/deepseek_v3/launch.sh --training.dataset=random\n";
  EXPECT_EQ(launch({{"NEREUS_SUBMIT", "true"}}, {"--dry-run"}), 0);
  EXPECT_THAT(out_, HasSubstr("\n" + command + "srun "));
  // It becomes sbatch.
  std::vector<std::string> words = {
      "recipe", "launch", "--recipe", recipe + "/deepseek_v3", "--", "--training.dataset=random"};
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  EXPECT_EXIT(
      {
        for (const auto& [name, value] :
             Variables{{"GPU_TYPE", "h200"}, {"JOB_TOTAL_GPUS", "512"}, {"NEREUS_SUBMIT", "true"}})
          setenv(name.c_str(), value.c_str(), 1);
        run_recipe(static_cast<int>(argv.size()), argv.data());
      },
      testing::ExitedWithCode(0), "");
  EXPECT_EQ(test::read_file(folder_.file("called")),
            fs::path(recipe).parent_path().string() + ": " + command.substr(7));
  EXPECT_FALSE(fs::exists(folder_.file("started")));
}

TEST_F(LlmbRun, AJobThatCannotBeRecordedIsSubmittedAllTheSame) {
  program("sbatch", "echo 12");
  fs::create_directories(folder_.file(".llmb/jobs.sqlite3"));
  EXPECT_EQ(run(submit_), 0);
  EXPECT_THAT(out_, HasSubstr("jobid=12 "));
  EXPECT_THAT(err_, HasSubstr("WARNING: job 12 was submitted, but not recorded: "));
  EXPECT_THAT(err_, HasSubstr("`nereus jobs rebuild` makes a new one from the runs' folders."));
}

}  // namespace
}  // namespace nereus
