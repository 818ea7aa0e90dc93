#include "report/titan_log.h"

#include <cmath>

#include "report/goodput.h"
#include "report/measure.h"
#include "report/read_run.h"
#include "report/run_files_test.h"

namespace nereus::report {
namespace {

using test::RunFiles;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;

class TitanLog : public RunFiles {
 protected:
  static std::string info(const std::string& time, const std::string& message,
                          const std::string& label = "", const char* level = "INFO") {
    return fmt::format("{}[titan] 2025-10-02 {} - root - {} - {}\n", label, time, level, message);
  }
  static std::string step(int n, double loss) {
    return fmt::format(
        "step: {:2}  loss: {:7.4f}  grad_norm:  1.0000  memory: 71.25GiB(90.12%)  tps: 1,234  "
        "tflops: 1,123.45  mfu: 12.34%",
        n, loss);
  }
  Run read(const std::string& text) const { return read_run(write("run.log", text)); }
};

TEST_F(TitanLog, TellsTimesApartByMilliseconds) {
  EXPECT_EQ(log_time("1970-01-01 00:00:01,500 - x"), 1.5);
  EXPECT_EQ(log_time("2025-10-02 20:23:53,470"), 1759436633.470);
  EXPECT_EQ(log_time("2024-02-29 00:00:00,000"), 1709164800);
  EXPECT_TRUE(std::isnan(log_time("2025-10-02 20:23:53")));
  EXPECT_TRUE(std::isnan(log_time("no time at all in this")));
}

TEST_F(TitanLog, ReadsAWholeLog) {
  const Run run = read(
      info("10:00:00,000", "Starting job: DeepSeek-V3 671B model training") +
      info("10:00:01,000", "Building 2-D device mesh with ['pp', 'dp_shard'], [8, 64]") +
      info("10:00:02,000", "CUDA capacity: NVIDIA H100 80GB HBM3 with 79.11GiB memory") +
      info("10:00:02,500", "Peak FLOPS used for computing MFU: 9.890e+14") +
      info("10:00:03,000", "Model deepseek_v3 671B size: 671,026,522,112 total parameters") +
      info("10:00:20,000",
           "Trainer is initialized with local batch size 16, global batch size 1024, gradient "
           "accumulation steps 1, sequence length 4096, total steps 60 (warmup 2)") +
      info("10:00:30,000", "Training starts at step 1") + info("10:01:30,000", step(1, 12.2613)) +
      info("10:06:00,000", step(10, 10.5)) + info("10:11:00,000", step(20, 9.25)) +
      info("10:12:00,000",
           "Finished saving the checkpoint (or staging if async is enabled)in 12.50 seconds.") +
      info("10:16:00,000", step(30, 8)) +
      info("10:16:10,000", "validate step: 30  loss:  8.1250  memory:  1.00GiB(1.00%)  tps: 9") +
      info("10:16:20,000", "Training completed"));
  EXPECT_EQ(run.source, Source::torchtitan);
  EXPECT_EQ(run.description, "DeepSeek-V3 671B model training");
  EXPECT_EQ(run.model, "deepseek_v3 671B");
  EXPECT_EQ(run.ranks, 512);
  EXPECT_EQ(run.tokens_per_step, 1024 * 4096);
  EXPECT_EQ(run.total_steps, 60);
  EXPECT_EQ(run.peak_flops, 989e12);
  EXPECT_TRUE(run.completed);
  EXPECT_EQ(run.find("validation_loss")->last().y, 8.125);
  EXPECT_EQ(run.find("memory_percent")->last().y, 90.12);
  EXPECT_EQ(run.find("tflops")->last().y, 1123.45);
  const Measure m = measure(run);
  EXPECT_THAT(m.window, testing::Pair(11, 30));
  EXPECT_NEAR(m.step_seconds.mean, 30, 1e-9);  // ten steps in five minutes
  EXPECT_NEAR(m.tokens_per_second.mean, 1024 * 4096 / 30.0, 1e-6);
  EXPECT_EQ(m.tokens_per_second_per_gpu.mean, 1234);
  const Goodput g = goodput(run);
  EXPECT_NEAR(g.all.total(), 16 * 60 + 20, 1e-6);
  EXPECT_NEAR(g.all.set_up, 30, 1e-6);
  EXPECT_NEAR(g.all.saving, 12.5, 1e-6);
}

TEST_F(TitanLog, ReadsColouredLinesOfTorchrun) {
  const Run run = read(
      "[rank0]:[titan] 2025-10-02 20:23:53,470 - root - INFO - \033[31mstep:  1  \033[32mloss: "
      "12.2613  \033[38;2;180;60;0mgrad_norm:  4.1  \033[38;2;54;234;195mmemory: "
      "1.25GiB(3.12%)  \033[34mtps: 1,234  \033[36mtflops: 0.10  \033[35mmfu: 0.01%\033[39m\n");
  EXPECT_EQ(run.find("loss")->last().y, 12.2613);
  EXPECT_EQ(run.find("mfu")->last().y, 0.01);
}

TEST_F(TitanLog, OfManyRanksTheOneThatKnowsTheLossCounts) {
  std::string text;
  for (const int n : {1, 10, 20})
    for (const int rank : {0, 8, 448, 3})
      text += info("10:00:00,000", step(n, rank == 448 ? 12 - 0.1 * n : -1),
                   fmt::format("[rank{}]:", rank));
  // A line that comes late is no restart.
  text += info("10:00:00,000", step(10, -1), "[rank9]:");
  const Run run = read(text);
  EXPECT_EQ(run.steps, 20);
  EXPECT_EQ(run.find("loss")->count(), 3);
  EXPECT_EQ(run.find("loss")->first().y, 11.9);
  EXPECT_EQ(run.find("loss")->last().y, 10);
  EXPECT_EQ(run.starts.size(), 1U);
  EXPECT_THAT(run.notes, IsEmpty());
}

TEST_F(TitanLog, ALogWithoutTheLastStageSaysSo) {
  const Run run = read(info("10:00:00,000", step(1, -1)) + info("10:00:10,000", step(10, -1)));
  EXPECT_EQ(run.steps, 10);
  EXPECT_EQ(run.find("loss"), nullptr);
  EXPECT_THAT(run.notes, Contains(HasSubstr("whose loss is written as -1: the log has no loss")));
}

TEST_F(TitanLog, ARestartReplacesStepsAndCountsThemAsLost) {
  const std::string start = "Starting job: x";
  const Run run =
      read(info("10:00:00,000", start) + info("10:00:10,000", step(1, 5)) +
           info("10:01:40,000", step(10, 4)) + info("10:03:20,000", step(20, 3)) +
           info("10:10:00,000", start) + info("10:10:05,000", "Training starts at step 11") +
           info("10:10:10,000", step(11, 3.5)) + info("10:11:40,000", step(20, 2.5)));
  EXPECT_EQ(run.steps, 20);
  EXPECT_EQ(run.find("loss")->last().y, 2.5);
  EXPECT_EQ(run.find("loss")->count(), 4);  // 1, 10, 11, 20
  ASSERT_EQ(run.starts.size(), 2U);
  EXPECT_EQ(run.starts[0].again_steps, 10);
  const Goodput g = goodput(run);
  EXPECT_NEAR(g.all.again, 100, 1e-6);
  EXPECT_NEAR(g.all.down, 400, 1e-6);
  EXPECT_NEAR(g.all.total(), 700, 1e-6);
}

TEST_F(TitanLog, AClockThatJumpsBackIsSaidAndNoTimeIsNegative) {
  const Run run = read(info("10:00:00,000", step(1, 5)) + info("10:01:30,000", step(10, 4)) +
                       info("09:02:00,000", step(20, 3)) + info("09:03:40,000", step(30, 2)));
  EXPECT_EQ(run.steps, 30);
  EXPECT_THAT(run.notes, Contains(HasSubstr("The clock was set back 1 time, by 3570 s")));
  for (const LoggedStep& s : run.logged) EXPECT_FALSE(s.step_seconds < 0);
  EXPECT_EQ(run.starts.size(), 1U);
  EXPECT_NEAR(goodput(run).all.total(), 90 + 100, 1e-6);
}

TEST_F(TitanLog, WarningsAreEventsOnce) {
  const Run run =
      read(info("10:00:00,000", step(1, 5)) + info("10:00:01,000", "odd", "[rank0]:", "WARNING") +
           info("10:00:01,000", "odd", "[rank1]:", "WARNING") +
           info("10:00:02,000", "bad", "[rank1]:", "ERROR"));
  ASSERT_EQ(run.events.size(), 2U);
  EXPECT_EQ(run.events[0].kind, "warning");
  EXPECT_EQ(run.events[1].text, "bad");
  EXPECT_EQ(run.events[1].step, 1);
}

TEST_F(TitanLog, ReadsTheConfigurationThatPrintConfigWrites) {
  for (const std::string label : {"", "[rank0]:", "0: "}) {
    std::string text = info("10:00:00,000", "Running with args: {", label);
    for (const char* line : {"  \"job\": {", "    \"description\": \"x\"", "  },",
                             "  \"training\": {", "    \"steps\": 60", "  }", "}"})
      text += label + line + "\n";
    const Run run = read(text + info("10:00:01,000", step(1, 5), label));
    EXPECT_EQ(run.setting("job.description"), "\"x\"") << label;
    EXPECT_EQ(run.setting("training.steps"), "60") << label;
    EXPECT_EQ(run.steps, 1) << label;
  }
}

TEST_F(TitanLog, ReadsTheConfigurationOfOneRankAmongOthersLines) {
  const Run run =
      read(info("10:00:00,000", "Running with args: {", "[rank0]:") + "[rank0]:  \"job\": {\n" +
           info("10:00:00,000", "Running with args: {", "[rank1]:") +
           "[rank1]:  \"job\": {\n[rank0]:    \"description\": \"x\"\n[rank1]:    \"x\": 1\n"
           "[rank0]:  }\n[rank0]:}\n[rank1]:  }\n[rank1]:}\n" +
           info("10:00:01,000", step(1, 5), "[rank0]:"));
  EXPECT_EQ(run.setting("job.description"), "\"x\"");
  EXPECT_EQ(run.setting("job.x"), "");
  EXPECT_EQ(run.steps, 1);
}

TEST_F(TitanLog, AConfigurationThatIsCutOffHidesNoStep) {
  const Run run = read(info("10:00:00,000", "Running with args: {") + "  \"job\": {\n" +
                       info("10:00:01,000", step(1, 5)) + info("10:00:02,000", step(2, 4)));
  EXPECT_EQ(run.steps, 2);
  EXPECT_THAT(run.settings, IsEmpty());
}

TEST_F(TitanLog, ReadsStepLinesThatWereCutOutOfALog) {
  const Run run = read(step(1, 5) + "\n" + step(10, 4) + "\n");
  EXPECT_EQ(run.steps, 10);
  EXPECT_EQ(measure(run).tokens_per_second_per_gpu.mean, 1234);
}

}  // namespace
}  // namespace nereus::report
