#include "train/file_triggers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "train/resume_test.h"

namespace nereus {
namespace {

using std::chrono::milliseconds;
using test::Arguments;
using test::exists;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using test::operator+;

TEST(FileTriggers, AreSeenOnceAndRemoved) {
  const test::TemporaryFolder f;
  using Ask = FileTriggers::Ask;
  FileTriggers triggers(f.file(""), milliseconds(0));
  EXPECT_EQ(triggers.look(), Ask::nothing);
  f.write("save", "");
  EXPECT_EQ(triggers.look(), Ask::save);
  EXPECT_FALSE(exists(f.file("save")));
  EXPECT_EQ(triggers.look(), Ask::nothing);
  f.write("save", "");
  f.write("save-and-stop", "");
  EXPECT_EQ(triggers.look(), Ask::stop) << "the most that is asked for";
  EXPECT_EQ(triggers.look(), Ask::nothing);
  std::filesystem::create_directory(f.file("save"));
  EXPECT_EQ(triggers.look(), Ask::nothing) << "no file";

  FileTriggers slow(f.file(""), milliseconds(60'000));
  EXPECT_EQ(slow.look(), Ask::nothing);
  f.write("save-and-stop", "");
  EXPECT_EQ(slow.look(), Ask::nothing) << "it is not time to look";

  const log::Capture capture;
  slow.forget_earlier();
  EXPECT_FALSE(exists(f.file("save-and-stop")));
  EXPECT_THAT(capture.text(), HasSubstr("save-and-stop was there before this run began"));
}

// Makes a file in a run's folder once `ready`, and waits until the run has seen it.
void touch(const test::TemporaryFolder& f, const std::string& name,
           const std::function<bool()>& ready) {
  const auto until = [](const std::function<bool()>& done) {
    for (int i = 0; i < 6000 && !done(); ++i) std::this_thread::sleep_for(milliseconds(10));
  };
  until(ready);
  f.write("run/" + name, "");
  until([&] { return !exists(f.file("run/" + name)); });
}

class TriggeredRun : public testing::TestWithParam<int> {};  // ranks

TEST_P(TriggeredRun, SavesGoesOnSavesAndStops) {
  const test::TemporaryFolder f;
  const std::string folder = f.file("run");
  const auto begun = [&] { return exists(folder + "/metrics.jsonl"); };
  std::thread user([&] {
    touch(f, "save", begun);
    touch(f, "save-and-stop", [&] { return exists(folder + "/checkpoint"); });
  });
  const Arguments endless = test::saving_run(
      folder, {"--training.steps=100000000", "--checkpoint.interval=100000000",
               "--metrics.log_freq=100000000", "--job.resume_command=sbatch this"});
  const test::WholeRun run = test::train_on(GetParam(), endless);
  user.join();
  EXPECT_EQ(run.code, 75);
  EXPECT_THAT(run.log, HasSubstr("The file save-and-stop was found: stopped after step "));
  EXPECT_THAT(run.log, Not(HasSubstr("Training completed")));
  const std::string last = run.log.substr(run.log.rfind("[titan]"));
  EXPECT_THAT(last, HasSubstr("The run is not finished: "));
  EXPECT_THAT(last, HasSubstr(" of 100000000 steps are saved. To go on: sbatch this\n"));
  size_t checkpoints = 0;
  for (const auto& e : std::filesystem::directory_iterator(folder + "/checkpoint"))
    checkpoints += e.path().filename().string().starts_with("step-") ? 1 : 0;
  EXPECT_EQ(checkpoints, 2u) << "after save, and at the end";
  const std::string first = run.log.substr(run.log.find(" of 100000000 steps are saved") - 20, 20);
  const int64_t step = std::stoll(first.substr(first.find_last_of(' ') + 1));
  const test::WholeRun next = test::train_on(
      GetParam(), test::saving_run(folder, {"--training.steps=" + std::to_string(step + 1)}));
  EXPECT_EQ(next.code, 0);
  EXPECT_THAT(next.log, AllOf(HasSubstr("Training starts at step " + std::to_string(step + 1)),
                              Not(HasSubstr("The run is not finished"))));
}
INSTANTIATE_TEST_SUITE_P(Ranks, TriggeredRun, testing::Values(1, 2));

TEST(FileTriggers, OfARunThatSavesNothingSaySo) {
  const test::TemporaryFolder f;
  std::thread user([&] {
    touch(f, "save", [&] { return exists(f.file("run/metrics.jsonl")); });
    touch(f, "save-and-stop", [] { return true; });
  });
  const test::WholeRun run = test::train_on(
      1, test::small_model(f.file("run")) +
             Arguments{"--training.steps=100000000", "--metrics.log_freq=100000000"});
  user.join();
  EXPECT_EQ(run.code, 75);
  EXPECT_THAT(run.log, HasSubstr("The file save asks for a checkpoint, and checkpoint.enable is "
                                 "not set: nothing is saved."));
  EXPECT_THAT(run.log, HasSubstr("The run is not finished, and nothing of it is saved "
                                 "(checkpoint.enable is not set): it would begin again."));
}

TEST(FileTriggers, OfAnEarlierRunAreNotHeeded) {
  const test::TemporaryFolder f;
  f.write("run/save-and-stop", "");
  const test::WholeRun run = test::train_on(2, test::saving_run(f.file("run")));
  EXPECT_EQ(run.code, 0);
  EXPECT_THAT(run.log, HasSubstr("save-and-stop was there before this run began"));
}

TEST(RunCheckpoint, ASaveThatTakesLongerThanTheLeadIsWarnedOfOnce) {
  const test::TemporaryFolder f;
  const auto log = [&](const std::string& name, const Arguments& more) {
    const std::string all = test::train_on(2, test::saving_run(f.file(name), more)).log;
    const std::string text =
        " s, and the run is told 1e-06 s before its end to stop "
        "(checkpoint.stop_lead_seconds): it would be killed while it saves. "
        "Have it told earlier, with sbatch --signal=TERM@";
    size_t n = 0;
    for (size_t at = 0; (at = all.find(text, at)) != std::string::npos; ++at) ++n;
    return n;
  };
  EXPECT_EQ(log("slow", {"--checkpoint.stop_lead_seconds=1e-6"}), 1u);
  EXPECT_EQ(log("async", {"--checkpoint.stop_lead_seconds=1e-6", "--checkpoint.async_mode=async"}),
            1u);
  EXPECT_EQ(log("quick", {"--checkpoint.stop_lead_seconds=1e6"}), 0u);
}

}  // namespace
}  // namespace nereus
