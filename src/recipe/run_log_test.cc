#include "recipe/run_log.h"

#include <fmt/format.h>

#include <fstream>
#include <sstream>

#include "recipe/installation_test.h"

namespace nereus::recipe {
namespace {

// The step line of TorchTitan, `milliseconds` after noon.
std::string line(int64_t step, int64_t milliseconds, const std::string& tps,
                 const std::string& tflops = "100.00", const std::string& grad_norm = "1.5000",
                 const std::string& label = "") {
  return fmt::format(
      "{}[titan] 2025-10-02 12:{:02}:{:02},{:03} - root - INFO - step: {:2}  loss:  8.0123  "
      "grad_norm:  {}  memory: 70.25GiB(88.13%)  tps: {}  tflops: {}  mfu: 10.11%\n",
      label, milliseconds / 60000, milliseconds / 1000 % 60, milliseconds % 1000, step, grad_norm,
      tps, tflops);
}
const std::string kDone = "[titan] 2025-10-02 12:59:00,000 - root - INFO - Training completed\n";

RunSpeed parse(const std::string& text) {
  std::istringstream in(text);
  return parse_log(in);
}

// Steps take their number of milliseconds, so that a wrong window gives another mean.
TEST(RunLog, StepsThirtyFiveToFortyFourCount) {
  std::string text;
  int64_t time = 0;
  for (int64_t step = 1; step <= 50; ++step) {
    time += step;
    text += line(step, time, fmt::format("1,{:03}", step), fmt::format("{}.50", step));
  }
  const RunSpeed speed = parse(text + kDone);
  EXPECT_EQ(speed.status, "success");
  EXPECT_NEAR(*speed.step_seconds, 0.0395, 1e-6);  // the mean of 35..44 milliseconds
  // Over time: of 395 ms, 35 had the rate of step 35, and so on. The sum of 35^2 to 44^2 is 15685.
  EXPECT_NEAR(*speed.tokens_per_second_per_gpu, 1000 + 15685.0 / 395, 1e-4);
  EXPECT_NEAR(*speed.tflops_per_gpu, 0.5 + 15685.0 / 395, 1e-4);
  EXPECT_EQ(speed.last_step, 50);
}

// With log_freq 10 steps 35 to 40 have what line 40 says, 41 to 44 what line 50 says.
TEST(RunLog, ALineSpeaksForTheStepsSinceTheOneBefore) {
  std::string text = line(1, 1000, "10");
  const std::vector<std::pair<int64_t, int64_t>> times = {{10, 20000}, {20, 40000},  {30, 60000},
                                                          {40, 80000}, {50, 110000}, {60, 140000}};
  for (const auto& [step, time] : times)
    text += line(step, time, step == 50 ? "200" : "100", step == 50 ? "20" : "10");
  const RunSpeed speed = parse(text + kDone);
  EXPECT_EQ(speed.status, "success");
  EXPECT_NEAR(*speed.step_seconds, (6 * 2.0 + 4 * 3.0) / 10, 1e-9);
  EXPECT_DOUBLE_EQ(*speed.tokens_per_second_per_gpu, (12 * 100.0 + 12 * 200.0) / 24);
  EXPECT_DOUBLE_EQ(*speed.tflops_per_gpu, (12 * 10.0 + 12 * 20.0) / 24);
}

// A step has 512 tokens on 4 devices; the rates of the lines are those of their own times, rounded.
TEST(RunLog, TokensASecondTimesSecondsAreAStepsTokens) {
  std::string text = line(1, 900, "142");
  int64_t time = 900;
  for (const auto& [step, each] : std::vector<std::pair<int64_t, int64_t>>{
           {10, 520}, {20, 610}, {30, 480}, {40, 431}, {50, 613}}) {
    time += each * (step == 10 ? 9 : 10);
    text += line(step, time, std::to_string((128 * 1000 + each / 2) / each));
  }
  const RunSpeed speed = parse(text + kDone);
  EXPECT_NEAR(*speed.step_seconds, 0.6 * 0.431 + 0.4 * 0.613, 1e-6);
  EXPECT_NEAR(*speed.tokens_per_second_per_gpu * *speed.step_seconds, 128, 0.1);
}

// With times that are not there a step took what its rate says.
TEST(RunLog, WithoutTimesRatesAreMeansOverTimeToo) {
  std::string text;
  for (int64_t step = 1; step <= 44; ++step)
    text +=
        fmt::format("step: {:2}  loss:  8.0  grad_norm:  1.5  tps: {}  tflops: {}.00  mfu: 1%\n",
                    step, step <= 39 ? 100 : 300, step <= 39 ? 10 : 30);
  const RunSpeed speed = parse(text + kDone);
  EXPECT_FALSE(speed.step_seconds);
  EXPECT_NEAR(*speed.tokens_per_second_per_gpu, 150, 1e-9);
  EXPECT_NEAR(*speed.tflops_per_gpu, 15, 1e-9);
}

TEST(RunLog, ARunThatGoesOnSaysHowFarItIs) {
  const RunSpeed speed = parse(
      "[titan] 2025-10-02 12:00:00,000 - root - INFO - Trainer is initialized with local batch "
      "size "
      "16, sequence length 4096, total steps 200 (warmup 100)\n" +
      line(1, 1000, "1") + line(10, 2000, "1"));
  EXPECT_EQ(speed.last_step, 10);
  EXPECT_EQ(speed.steps, 200);
  EXPECT_FALSE(speed.finished);
}

// Under srun each rank of TorchTitan writes, coloured, and those without the loss write -1.
TEST(RunLog, ColoursLabelsAndManyRanksAreUnderstood) {
  std::string text;
  for (int64_t step = 1; step <= 44; ++step) {
    text += fmt::format(
        "[titan] 2025-10-02 12:00:{:02},000 - root - INFO - \033[31mstep: {:2}  \033[32mloss: "
        "-1.0000  \033[38;2;180;60;0mgrad_norm:  1.5000  \033[38;2;54;234;195mmemory: "
        "70.25GiB(88.13%)  \033[34mtps: 1,000  \033[36mtflops: 1,100.00  \033[35mmfu: "
        "10.11%\033[39m\n",
        step, step);
    text += line(step, 1000 * step + 300, "3,000", "1,300.00", "1.5000", "[rank7]:");
    text +=
        "[titan] 2025-10-02 12:00:44,000 - root - INFO - validate step: 44  loss:  8.0  "
        "memory: 1.00GiB(2.00%)  tps: 9\n";
  }
  const RunSpeed speed = parse(text + kDone);
  EXPECT_EQ(speed.status, "success");
  EXPECT_NEAR(*speed.step_seconds, 1.0, 1e-9);
  EXPECT_DOUBLE_EQ(*speed.tokens_per_second_per_gpu, 2000);
  EXPECT_DOUBLE_EQ(*speed.tflops_per_gpu, 1200);
}

TEST(RunLog, AShortRunGivesTheStepsAfterItsFirstLine) {
  const std::string text = line(1, 5000, "1") + line(2, 6000, "100") + line(3, 8000, "200");
  const RunSpeed speed = parse(text + kDone);
  EXPECT_EQ(speed.status, "short");
  EXPECT_NEAR(*speed.step_seconds, 1.5, 1e-9);
  EXPECT_DOUBLE_EQ(*speed.tokens_per_second_per_gpu, (100 + 2 * 200) / 3.0);
  const RunSpeed one = parse(line(1, 5000, "1") + kDone);
  EXPECT_EQ(one.status, "short");
  EXPECT_FALSE(one.step_seconds);
}

TEST(RunLog, WhatIsNoResultIsNamed) {
  EXPECT_EQ(parse("").status, "no_data");
  EXPECT_EQ(parse("step: 3 of something else\n").status, "no_data");
  std::string text;
  for (int64_t step = 1; step <= 50; ++step) text += line(step, step, "1");
  const RunSpeed broken_off = parse(text);
  EXPECT_EQ(broken_off.status, "incomplete");
  EXPECT_FALSE(broken_off.step_seconds);
  EXPECT_EQ(parse(text + line(51, 51, "1", "1", "    nan") + kDone).status, "invalid_grad_norm");
  EXPECT_EQ(parse_log("/nowhere", 1).status, "no_log");
}

TEST(RunLog, TheLogOfTheLastRestartIsTheActiveOne) {
  const test::TemporaryFolder folder;
  EXPECT_TRUE(find_logs(folder.path(), 77).empty());
  folder.write("slurm-77.out", "a\nb\n");
  const std::vector<RunLog> slurm = find_logs(folder.path(), 77);
  ASSERT_EQ(slurm.size(), 1u);
  EXPECT_FALSE(slurm[0].restart);
  EXPECT_EQ(parse_log(folder.path(), 77).status, "no_log");
  for (const char* name :
       {"log-torchtitan_x_512gpus_77_0.out", "log-torchtitan_x_512gpus_77_10.out",
        "log-torchtitan_x_512gpus_77_9.out", "log-torchtitan_x_512gpus_78_11.out",
        "log-torchtitan_x_512gpus_77_x.out", "log-torchtitan_x_512gpus_77_12.err",
        "log-torchtitan_x_512gpus_77_10.err", "log-torchtitan_x_512gpus_177_13.out"})
    folder.write(name, line(1, 1, "1") + kDone);
  const std::vector<RunLog> logs = find_logs(folder.path(), 77);
  ASSERT_EQ(logs.size(), 3u);
  EXPECT_EQ(logs[0].restart, 0);
  EXPECT_EQ(logs[2].errors, folder.file("log-torchtitan_x_512gpus_77_10.err"));
  EXPECT_EQ(logs[1].errors, "");
  EXPECT_EQ(logs[2].path, folder.file("log-torchtitan_x_512gpus_77_10.out"));
  EXPECT_EQ(parse_log(folder.path(), 77).status, "short");
  EXPECT_EQ(refusal([] { find_logs("/nowhere", 1); }), "Log directory not found: /nowhere");
}

TEST(RunLog, TheTailIsTheLastLines) {
  const test::TemporaryFolder folder;
  const std::string path = folder.write("log", "a\nb\n\nd\n");
  EXPECT_EQ(tail(path, 2), "\nd");
  EXPECT_EQ(tail(path, 9), "a\nb\n\nd");
  EXPECT_EQ(refusal([&] { tail(path, 0); }), "--tail must be at least 1.");
}

}  // namespace
}  // namespace nereus::recipe
