#include "recipe/run_record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "base/error.h"
#include "test/test_tensor.h"

namespace nereus::recipe {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::ThrowsMessage;

class Record : public testing::Test {
 protected:
  const test::TemporaryFolder f_;
  const std::string experiments_ = "workloads/pretrain_deepseek-v3-torchtitan/experiments/";
  const std::string settings_ = experiments_ + "deepseek-v3-torchtitan_671b_bf16_gpus512/";
  const std::vector<std::string> arguments_ = {"--optimizer.lr=1e-3"};

  Variables variables(Variables more = {}) const {
    more.insert({{"GPU_TYPE", "h100"},
                 {"JOB_TOTAL_GPUS", "512"},
                 {"LLMB_INSTALL", f_.path()},
                 {"SEQ_LEN", "2048"}});
    return more;
  }
  RecipeRun run(const Variables& v, const std::vector<std::string>& arguments) const {
    return resolve_run(v, "/opt/nereus", "/repo/recipes/deepseek_v3", arguments);
  }
  // A run of the job in its folder, with checkpoints of these steps. Returns the folder.
  std::string start(const std::string& job, const std::vector<int>& steps,
                    Variables more = {}) const {
    more["SLURM_JOB_ID"] = job;
    const Variables v = variables(more);
    const RecipeRun r = run(v, arguments_);
    fs::create_directories(r.outputs);
    write_record(r.experiment, record_of(r, v, arguments_));
    for (const int step : steps)
      f_.write(fs::path(r.outputs + "/checkpoint/step-" + std::to_string(step) + "/manifest.json")
                   .lexically_relative(f_.path()),
               "");
    return r.experiment;
  }
  // Slurm's squeue says `text` of every job.
  Variables queue(const std::string& text) const {
    fs::permissions(f_.write("bin/squeue", "#!/bin/sh\n" + text + "\n"), fs::perms::owner_all);
    return {{"PATH", f_.file("bin")}};
  }
};

TEST_F(Record, ComesBackAsItWasWritten) {
  const std::string folder = start("77", {});
  const auto record = read_record(folder);
  ASSERT_TRUE(record);
  EXPECT_EQ(record->job, "77");
  EXPECT_EQ(record->variables, variables());
  EXPECT_EQ(record->arguments, arguments_);
  EXPECT_EQ(record->steps, 200);
  EXPECT_EQ(record->checkpoints, "checkpoint");
  EXPECT_THAT(record->settings, testing::Contains("--training.seq_len=2048"));
  EXPECT_THAT(record->settings, Not(testing::Contains(HasSubstr("dump_folder"))));
  f_.write("torn/launch.json", "{\"job\": \"77\",");
  EXPECT_FALSE(read_record(f_.file("torn")));
  EXPECT_FALSE(read_record(f_.file("none")));
}

TEST_F(Record, ARunIsFoundByItsJobOrFolder) {
  const std::string folder = start("77", {});
  const std::string submitted =
      f_.file(experiments_ + "pretrain_deepseek-v3-torchtitan_671b_bf16_gpus512/1764349200");
  f_.write(fs::path(submitted + "/llmb-config_78.yaml").lexically_relative(f_.path()), "");
  f_.write(fs::path(submitted + "/log-torchtitan_deepseek-v3-torchtitan_512gpus_79_0.out")
               .lexically_relative(f_.path()),
           "");
  EXPECT_EQ(find_run_folder("77", f_.path()), folder);
  EXPECT_EQ(find_run_folder("78", f_.path()), submitted);
  EXPECT_EQ(find_run_folder("79", f_.path()), submitted) << "a job that went on there";
  for (const char* below : {"", "/", "/.", "/outputs", "/outputs/"})
    EXPECT_EQ(find_run_folder(folder + below, ""), folder) << below;
  EXPECT_THAT(
      [&] { find_run_folder("7", f_.path()); },
      ThrowsMessage<Error>("Job 7 has no run in " + f_.path() +
                           "/workloads/*/experiments: name the run's folder in its place."));
  EXPECT_THAT([&] { find_run_folder("7", ""); },
              ThrowsMessage<Error>(HasSubstr("LLMB_INSTALL, which is not set")));
  EXPECT_THAT([&] { find_run_folder("/none", ""); },
              ThrowsMessage<Error>(HasSubstr("/none: a run to go on with is the number of a job or "
                                             "the folder of a run: there is no such file")));
}

TEST_F(Record, AResumedRunHasItsVariablesAndArguments) {
  const std::string folder = start("77", {10, 20});
  const Resumed r = resumed(
      {{"NEREUS_RESUME", "77"}, {"LLMB_INSTALL", f_.path()}, {"TRAINING_STEPS", "400"}}, {"--x=1"});
  EXPECT_EQ(r.variables.at("SEQ_LEN"), "2048");
  EXPECT_EQ(r.variables.at("TRAINING_STEPS"), "400");
  EXPECT_EQ(r.variables.at("LLMB_EXPERIMENT_DIR"), folder);
  EXPECT_EQ(r.arguments, (std::vector<std::string>{"--optimizer.lr=1e-3", "--x=1"}));
  const RecipeRun again = run(r.variables, r.arguments);
  EXPECT_EQ(again.outputs, folder + "/outputs");
  EXPECT_THAT(again.train, testing::Contains("--checkpoint.enable=true"));

  // Put back into the queue, a job finds its own arguments there, not those of the run before it.
  const Resumed requeued = resumed({{"NEREUS_RESUME", "77"},
                                    {"LLMB_INSTALL", f_.path()},
                                    {"SLURM_JOB_ID", read_record(folder)->job}},
                                   {"--x=1"});
  EXPECT_EQ(requeued.arguments, (std::vector<std::string>{"--optimizer.lr=1e-3"}));

  const Variables other = {{"NEREUS_RESUME", folder}, {"LLMB_EXPERIMENT_DIR", "/elsewhere"}};
  EXPECT_THAT([&] { resumed(other, {}); },
              ThrowsMessage<Error>(HasSubstr("LLMB_EXPERIMENT_DIR = /elsewhere names another")));
  const std::string empty = start("78", {});
  EXPECT_THAT(
      [&] {
        resumed({{"NEREUS_RESUME", empty}}, {});
      },
      ThrowsMessage<Error>(HasSubstr(empty + "/outputs/checkpoint has no checkpoint to go "
                                             "on from. Start the run anew")));
  const Variables none = {{"SEQ_LEN", "5"}};
  EXPECT_EQ(resumed(none, {"--x"}).variables, none);
}

TEST_F(Record, TheNewestCheckpointIsAWholeOne) {
  EXPECT_EQ(newest_checkpoint(f_.file("none")), -1);
  for (const char* name : {"c/step-8/manifest.json", "c/step-12/config.json", "c/step-13/shard",
                           "c/step-14.partial/manifest.json", "c/step-x/manifest.json"})
    f_.write(name, "");
  EXPECT_EQ(newest_checkpoint(f_.file("c")), 12);
}

TEST_F(Record, HowToGoOnIsACommandLine) {
  const Variables v = variables({{"SLURM_JOB_ID", "77"}});
  EXPECT_EQ(resume_command(run(v, {}), v, "/repo/launch.sh"),
            "LLMB_INSTALL=" + f_.path() +
                " NEREUS_RESUME=77 sbatch -N 64 --ntasks-per-node=8 /repo/launch.sh");
  const Variables four =
      variables({{"SLURM_JOB_ID", "77"}, {"SLURM_JOB_NUM_NODES", "128"}, {"SLURM_NTASKS", "512"}});
  EXPECT_THAT(resume_command(run(four, {}), four, "/repo/launch.sh"),
              HasSubstr(" sbatch -N 128 --ntasks-per-node=4 /repo/launch.sh"));
  const Variables own =
      variables({{"SLURM_JOB_ID", "77"}, {"LLMB_EXPERIMENT_DIR", f_.file("a b")}});
  EXPECT_THAT(resume_command(run(own, {}), own, "/repo/launch.sh"),
              HasSubstr(" NEREUS_RESUME='" + f_.file("a b") + "' sbatch -N 64 "));
  f_.write("a b/llmb-config_77.yaml", "");
  EXPECT_EQ(resume_command(run(own, {}), own, "/repo/launch.sh"), "nereus submit --resume 77");
}

TEST_F(Record, AnUnfinishedRunOfTheSameSettingsIsSeenBesideANewOne) {
  const Variables mine = variables({{"SLURM_JOB_ID", "90"}});
  const auto beside = [&](const Variables& slurm, const std::vector<std::string>& arguments) {
    return unfinished_beside(run(mine, arguments), slurm, "NEREUS_RESUME=");
  };
  const Variables gone = queue("echo 'Invalid job id specified' >&2; exit 1");
  EXPECT_EQ(beside(gone, arguments_), "") << "there is none";
  start("75", {200});
  start("76", {});
  start("90", {10});
  EXPECT_EQ(beside(gone, arguments_), "") << "finished, without a checkpoint, its own";
  const std::string folder = start("77", {110, 120});
  EXPECT_EQ(beside(gone, arguments_),
            "a run of the same settings is not finished: 120 of 200 steps are saved in " + folder +
                ". This job begins at step 0; NEREUS_RESUME=77 goes on with that run.");
  EXPECT_EQ(beside(gone, {"--optimizer.lr=2e-3"}), "") << "other settings";
  EXPECT_EQ(beside(queue("echo RUNNING"), arguments_), "") << "it runs";
}

}  // namespace
}  // namespace nereus::recipe
