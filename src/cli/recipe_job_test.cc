#include "cli/recipe_job.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <thread>

#include "test/test_tensor.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

// Programs of Slurm's that say what the test wants and write down what they are called with.
class RecipeJobTest : public testing::Test {
 protected:
  const test::TemporaryFolder f_;
  const std::string old_path_ = std::getenv("PATH");
  std::string out_;

  void SetUp() override {
    setenv("PATH", (f_.file("bin") + ":" + old_path_).c_str(), 1);
    program("squeue", "echo RUNNING");
    program("scontrol", "exit 0");
    program("scancel", "exit 0");
  }
  void TearDown() override { setenv("PATH", old_path_.c_str(), 1); }
  void program(const std::string& name, const std::string& body) const {
    const std::string log = "echo \"" + name + " $*\" >>" + f_.file("called") + "\n";
    fs::permissions(f_.write("bin/" + name, "#!/bin/bash\n" + log + body + "\n"),
                    fs::perms::owner_all);
  }
  // What srun does: saves a step, and ends with the code.
  void srun(const std::string& step, int code) const {
    program("srun",
            (step.empty() ? ""
                          : "mkdir -p " + f_.file("checkpoint/step-") + step + " && touch " +
                                f_.file("checkpoint/step-") + step + "/manifest.json\n") +
                "exit " + std::to_string(code));
  }
  int run(bool requeues = true) {
    fs::remove(f_.file("called"));
    RecipeJob job{.id = "77",
                  .checkpoints = f_.file("checkpoint"),
                  .steps = 200,
                  .resume_command = "sbatch this"};
    job.run.srun = {"srun", "--ntasks=4"};
    job.run.train = {"nereus", "train"};
    job.run.requeues = requeues;
    testing::internal::CaptureStdout();
    const int code = run_job(job);
    out_ = testing::internal::GetCapturedStdout();
    return code;
  }
  std::string called() const { return test::read_file(f_.file("called")); }
};

TEST_F(RecipeJobTest, ARunThatWasStoppedIsRequeued) {
  for (const int code : {143, 138}) {
    srun(std::to_string(code), code);
    EXPECT_EQ(run(), code);
    EXPECT_THAT(called(), HasSubstr("scontrol update jobid=77 requeue=1\nsrun --ntasks=4 nereus "
                                    "train\n"))
        << code;
    EXPECT_THAT(called(), testing::EndsWith("squeue --noheader --jobs=77 --format=%T\nscontrol "
                                            "requeue 77\n"))
        << code;
    fs::remove_all(f_.file("checkpoint"));
  }
  srun("10", 143);
  EXPECT_EQ(run(), 143);
  EXPECT_EQ(out_, "10 of 200 steps are saved: job 77 is requeued and goes on from there.\n");
}

TEST_F(RecipeJobTest, ARunIsNotRequeuedWithoutReason) {
  const std::string last =
      "The run is not finished: 10 of 200 steps are saved. To go on: sbatch this\n";
  srun("10", 143);
  EXPECT_EQ(run(false), 143);
  EXPECT_EQ(out_, last) << "nobody asked";
  EXPECT_THAT(called(), Not(HasSubstr("requeue")));
  EXPECT_EQ(run(), 143);
  EXPECT_EQ(out_,
            "NEREUS_REQUEUE: 10 of 200 steps are saved, none of them by this attempt: it is "
            "not requeued.\n" +
                last);
  srun("11", 143);
  program("squeue", "echo COMPLETING");
  EXPECT_EQ(run(), 143);
  EXPECT_THAT(called(), Not(HasSubstr("scontrol requeue"))) << "it is cancelled";
  program("squeue", "echo RUNNING");
  for (const int code : {75, 72, 130}) {
    srun(std::to_string(code), code);
    EXPECT_EQ(run(), code);
    EXPECT_THAT(called(), Not(HasSubstr("scontrol requeue"))) << code;
    EXPECT_THAT(out_, HasSubstr("To go on: sbatch this\n"));
  }
  for (const int code : {0, 2}) {
    srun("100", code);
    EXPECT_EQ(run(), code);
    EXPECT_EQ(out_, "");
  }
  srun("200", 74);
  EXPECT_EQ(run(), 74);
  EXPECT_EQ(out_, "") << "it is finished";
  srun("150", 143);
  fs::remove_all(f_.file("checkpoint"));
  program("scontrol", "[[ $1 != requeue ]] || { echo 'disabled' >&2; exit 1; }");
  EXPECT_EQ(run(), 143);
  EXPECT_THAT(out_, HasSubstr("Slurm does not requeue it: disabled\nThe run is not finished: 150"));
}

TEST_F(RecipeJobTest, AJobHardlyLongerThanTheLeadStartsAgain) {
  const auto at = [](std::time_t seconds) {
    const std::time_t time = std::time(nullptr) + seconds;
    std::tm parts{};
    localtime_r(&time, &parts);
    char text[32];
    std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
    return std::string(text);
  };
  const auto lasts = [&](int seconds) {
    program("scontrol", "echo 'JobId=77 JobState=RUNNING StartTime=" + at(-10) +
                            " EndTime=" + at(seconds - 10) + " Deadline=N/A'");
  };
  program("srun",
          "[[ -e " + f_.file("again") + " ]] && exit 0; touch " + f_.file("again") + "; exit 143");
  lasts(640);
  EXPECT_EQ(run(false), 0);
  EXPECT_THAT(out_, HasSubstr("hardly longer than the lead of --signal=TERM@600"));
  EXPECT_THAT(called(), HasSubstr("\nsrun --ntasks=4 --open-mode=append nereus train\n"));
  for (const int seconds : {60, 3600}) {  // no time to run in; stopped for another reason
    fs::remove(f_.file("again"));
    lasts(seconds);
    EXPECT_EQ(run(false), 143) << seconds;
  }
}

// sbatch --signal=B:TERM@N
TEST_F(RecipeJobTest, ASignalToTheBatchScriptGoesToTheRanks) {
  program("srun", "for ((i = 0; i < 3000; ++i)); do [[ ! -e " + f_.file("told") +
                      " ]] || exit 143; sleep 0.02; done");
  program("scancel", "touch " + f_.file("told"));
  const pid_t child = fork();
  if (child == 0) _exit(run(false));
  for (int i = 0; i < 6000 && !fs::exists(f_.file("called")); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  kill(child, SIGTERM);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 143);
  EXPECT_THAT(called(), HasSubstr("scancel --signal=TERM 77\n"));
}

}  // namespace
}  // namespace nereus
