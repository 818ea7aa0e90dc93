// Runs of Nereus: metrics.jsonl of all starts, events, the configuration, experts; bad files.
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>

#include "report/goodput.h"
#include "report/measure.h"
#include "report/read_run.h"
#include "report/run_files_test.h"

namespace nereus::report {
namespace {

using test::RunFiles;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class OwnRun : public RunFiles {
 protected:
  std::string refusal(const std::string& path) const {
    try {
      read_run(path);
    } catch (const Error& e) {
      EXPECT_EQ(e.exit_code(), 2);
      return e.what();
    }
    return "no error";
  }
};

TEST_F(OwnRun, StatesTheRecipesMeasureOverAWindowWithoutWarmUp) {
  // Two ranks of 1000 tokens: 2000 tokens a step. Steps 11 to 13 take 1, 2 and 4 seconds.
  write("metrics.jsonl", steps(1, 10, 50) + step(11, 3, 1) + step(12, 3, 2) + step(13, 2, 4));
  const Run run = read_run(folder_);
  EXPECT_EQ(run.steps, 13);
  EXPECT_EQ(run.tokens_per_step, 2000);
  EXPECT_EQ(run.ranks, 2);
  const Measure m = measure(run);
  EXPECT_THAT(m.window, testing::Pair(11, 13));
  EXPECT_NEAR(m.tokens_per_second.mean, (2000.0 + 1000 + 500) / 3, 1e-9);
  EXPECT_NEAR(m.tokens_per_second.median, 1000, 1e-9);
  // Sample deviation of 2000, 1000, 500.
  EXPECT_NEAR(m.tokens_per_second.stddev, 763.7626158, 1e-6);
  EXPECT_NEAR(m.tokens_per_second_per_gpu.mean, (1000.0 + 500 + 250) / 3, 1e-9);
  const Measure asked = measure(run, Window{12, 12});
  EXPECT_THAT(asked.window, testing::Pair(12, 12));
  EXPECT_NEAR(asked.tokens_per_second.mean, 1000, 1e-9);
}

TEST_F(OwnRun, ALineStandsForAllStepsSinceTheOneBefore) {
  std::string text = step(1, 9);
  for (const int64_t n : {10, 20, 30}) text += step(n, 8);
  write("metrics.jsonl", text);
  const Run run = read_run(folder_);
  EXPECT_THAT(measure(run).window, testing::Pair(11, 30));
  EXPECT_NEAR(goodput(run).all.counted, 30, 1e-9);
}

TEST_F(OwnRun, StepsTrainedAgainReplaceTheOldOnes) {
  write("metrics.1.jsonl", steps(1, 70));
  write("metrics.jsonl", "{\"step\":50,\"validation_loss\":4.5}\n" + step(51, 1.25) + step(52, 1));
  write("events.jsonl",
        R"({"time":1000.0,"step":0,"kind":"start","text":"","ranks":2,"setup_seconds":5.0})"
        "\n"
        R"({"time":1060.0,"step":50,"kind":"checkpoint","text":"saved","seconds":4.0})"
        "\n"
        R"({"time":1080.0,"step":70,"kind":"error","text":"killed"})"
        "\n"
        R"({"time":1200.0,"step":50,"kind":"resume","text":"","ranks":2,"setup_seconds":6.0,)"
        R"("device":"AMD","start":"x"})"
        "\n"
        R"({"time":1203.0,"step":52,"kind":"end","text":"","exit_code":0})"
        "\n");
  const Run run = read_run(folder_);
  EXPECT_EQ(run.steps, 52);
  EXPECT_TRUE(run.completed);
  EXPECT_THAT(run.environment, ElementsAre(testing::Pair("Device", "AMD")));
  EXPECT_EQ(run.find("loss")->last().x, 52);
  EXPECT_EQ(run.find("loss")->count(), 52);
  EXPECT_EQ(run.find("loss")->last().y, 1);
  ASSERT_EQ(run.starts.size(), 2U);
  EXPECT_EQ(run.starts[0].again_steps, 20);
  const Goodput g = goodput(run);
  EXPECT_TRUE(g.by_clock);
  // 995 to 1203: 70 steps of a second, 4 of them a save's, 20 done again; two more of a second.
  EXPECT_NEAR(g.all.total(), 208, 1e-9);
  EXPECT_NEAR(g.all.again, 20, 1e-9);
  EXPECT_NEAR(g.all.counted, 70 - 20 - 4 + 2, 1e-9);
  EXPECT_NEAR(g.all.saving, 4, 1e-9);
  EXPECT_NEAR(g.all.set_up, 11, 1e-9);
  EXPECT_NEAR(g.all.down, 1194 - 1080, 1e-9);
  EXPECT_EQ(run.starts[0].ended, "error");
}

TEST_F(OwnRun, AFolderWithoutMetricsIsRefusedWithWhatIsRead) {
  std::filesystem::create_directories(folder_);
  EXPECT_THAT(refusal(folder_), HasSubstr("there is no metrics.jsonl in it, no log with step lines "
                                          "and no event file. `nereus report` reads"));
  EXPECT_THAT(refusal(path("nothing")), HasSubstr("there is no such file or folder"));
  write("metrics.jsonl", "");
  EXPECT_THAT(refusal(folder_), HasSubstr("metrics.jsonl has no step yet"));
  EXPECT_THAT(refusal(write("notes.txt", "nothing of a run\n")), HasSubstr("it has no step line"));
}

TEST_F(OwnRun, AHalfWrittenLastLineIsLeftOutAndSaid) {
  write("metrics.jsonl", steps(1, 5) + step(6, 9).substr(0, 40));
  const Run run = read_run(folder_);
  EXPECT_EQ(run.steps, 5);
  EXPECT_THAT(run.notes, ElementsAre("metrics.jsonl: the last line is half-written and left out."));
}

TEST_F(OwnRun, LinesThatAreNoStepAreLeftOutAndCounted) {
  write("metrics.jsonl", steps(1, 2) + "garbage\n[1,2]\n{\"loss\":3}\n{}\n" + step(3, 9));
  const Run run = read_run(folder_);
  EXPECT_EQ(run.steps, 3);
  EXPECT_THAT(run.notes,
              ElementsAre("metrics.jsonl: 4 lines are no step or validation; left out."));
}

TEST_F(OwnRun, ALossThatIsNotFiniteIsAPointWithoutAValue) {
  write("metrics.jsonl", steps(1, 3) + "{\"step\":4,\"loss\":null,\"grad_norm\":null}\n");
  const Run run = read_run(folder_);
  EXPECT_EQ(run.steps, 4);
  EXPECT_TRUE(std::isnan(run.find("loss")->last().y));
}

TEST_F(OwnRun, AClockThatJumpsBackBetweenStartsIsSaid) {
  write("metrics.1.jsonl", steps(1, 3));
  write("metrics.jsonl", steps(4, 5));
  write("events.jsonl", R"({"time":5000,"step":0,"kind":"start","text":"","setup_seconds":1})"
                        "\n"
                        R"({"time":5010,"step":3,"kind":"end","text":"","exit_code":1})"
                        "\n"
                        R"({"time":4000,"step":3,"kind":"resume","text":"","setup_seconds":1})"
                        "\n"
                        R"({"time":4005,"step":5,"kind":"end","text":"","exit_code":0})"
                        "\n");
  const Run run = read_run(folder_);
  EXPECT_THAT(run.notes, Contains(HasSubstr("The clock jumped back by 1011 s between two starts")));
  EXPECT_NEAR(goodput(run).all.total(), 11 + 6, 1e-9);
  EXPECT_EQ(goodput(run).all.down, 0);
}

TEST_F(OwnRun, ReadsSettingsWithTheirOriginsAndWhatTheyTell) {
  write("metrics.jsonl", steps(1, 3));
  write("resolved_config.toml",
        "[job]\ndescription = \"a # b\"  # run.toml:2\n# config_file = None  # default\n\n"
        "[model]\nname = \"deepseek_v3\"  # default\nflavor = \"16B\"  # run.toml:7\n\n"
        "[training]\nsteps = 300  # command line\nseq_len = 4096  # default\n\n"
        "[activation_checkpoint]\nmode = \"full\"  # default\n");
  const Run run = read_run(folder_);
  ASSERT_EQ(run.settings.size(), 7U);
  EXPECT_EQ(run.settings[0].key, "job.description");
  EXPECT_EQ(run.settings[0].value, "\"a # b\"");
  EXPECT_EQ(run.settings[0].origin, "run.toml:2");
  EXPECT_EQ(run.settings[1].key, "job.config_file");
  EXPECT_EQ(run.settings[1].value, "None");
  EXPECT_EQ(run.total_steps, 300);
  EXPECT_EQ(run.description, "a # b");
  EXPECT_EQ(run.model, "deepseek_v3 16B");
  // 12 L H floor(dim / H) S against 6 L H (Dqk + Dv) S and half of it; full recompute is a third.
  EXPECT_GT(run.flops.non_causal, run.flops.causal);
  EXPECT_NEAR(measure(run).tflops[3], measure(run).tflops[2] * 4 / 3, 1e-9);
}

TEST_F(OwnRun, ReadsExpertsOverAnEvenShare) {
  write("metrics.jsonl", steps(1, 3));
  std::string text;
  for (int n = 1; n <= 300; ++n)
    text += fmt::format(
        "{{\"step\":{},\"counts\":{{\"1\":[1,3],\"10\":[2,2],\"2\":[4,0]}},"
        "\"bias\":{{\"1\":[0.5,-0.5],\"10\":[0,0],\"2\":[0,1]}}}}\n",
        n);
  write("experts.jsonl", text);
  const Run run = read_run(folder_);
  EXPECT_THAT(run.experts.layers, ElementsAre(1, 2, 10));
  EXPECT_EQ(run.experts.experts, 2);
  EXPECT_LE(run.experts.samples.size(), 97U);
  EXPECT_EQ(run.experts.samples.back().step, 300);
  EXPECT_THAT(run.experts.samples.front().load, ElementsAre(0.5F, 1.5F, 2, 0, 1, 1));
  EXPECT_THAT(run.experts.samples.front().bias, ElementsAre(0.5F, -0.5F, 0, 1, 0, 0));
}

TEST_F(OwnRun, ALayerWithoutExpertsIsLeftOut) {
  write("metrics.jsonl", steps(1, 3));
  write("experts.jsonl",
        "{\"step\":1,\"counts\":{\"1\":[]}}\n{\"step\":2,\"counts\":{\"1\":[1,3],\"2\":[]}}\n"
        "{\"step\":3,\"counts\":{\"1\":[1,3]}}\n");
  const Run run = read_run(folder_);
  ASSERT_EQ(run.experts.samples.size(), 1U);
  EXPECT_EQ(run.experts.samples.front().step, 3);
  EXPECT_THAT(run.experts.samples.front().load, ElementsAre(0.5F, 1.5F));
}

TEST_F(OwnRun, ReadsTheLastMemorySnapshotOfEveryRank) {
  write("metrics.jsonl", steps(1, 3));
  write("memory_snapshot/iteration_9/rank0_memory_snapshot.json", "{\"owners\":[]}");
  const auto snapshot = [&](int rank, int bytes) {
    write(fmt::format("memory_snapshot/iteration_10/rank{}_memory_snapshot.json", rank),
          fmt::format(R"({{"owners":[{{"owner":"weights","bytes":{}}}],"series":[)"
                      R"({{"time":0.5,"action":"F","live":{{"kept":7,"pass":{}}}}}]}})",
                      bytes, rank));
  };
  snapshot(1, 20);
  snapshot(0, 10);
  write("memory_snapshot/iteration_10/rank2_memory_snapshot.json", "half");
  const Run run = read_run(folder_);
  EXPECT_EQ(run.memory.source, "iteration_10");
  ASSERT_EQ(run.memory.ranks.size(), 2U);
  EXPECT_EQ(run.memory.ranks[1].owners.at(0).bytes, 20);
  EXPECT_THAT(run.memory.times, ElementsAre(0.5));
  EXPECT_THAT(run.memory.use, ElementsAre(testing::Pair("kept", ElementsAre(7)),
                                          testing::Pair("pass", ElementsAre(0))));
  EXPECT_THAT(run.notes, ElementsAre(HasSubstr("rank2_memory_snapshot.json: no memory snapshot")));
}

TEST_F(OwnRun, ReadsAHugeFileInBoundedMemory) {
  // Most of it is a hole, which reads as one line that is none; lines before and behind it count.
  const std::string file = write("metrics.jsonl", steps(1, 20'000));
  ASSERT_EQ(::truncate(file.c_str(), 400'000'000), 0);
  std::ofstream(file, std::ios::app) << "\n" << steps(20'001, 20'010);
  rusage before{}, after{};
  getrusage(RUSAGE_SELF, &before);
  const Run run = read_run(folder_);
  getrusage(RUSAGE_SELF, &after);
  EXPECT_EQ(run.steps, 20'010);
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 100'000) << "kB";
}

TEST_F(OwnRun, ThinsOutLinesOfAVeryLongRun) {
  std::string text;
  for (int64_t n = 1; n <= 300'000; ++n)
    text += fmt::format("{{\"step\":{},\"loss\":2,\"tps\":1000,\"step_seconds\":0.5}}\n", n);
  write("metrics.jsonl", text);
  const Run run = read_run(folder_);
  EXPECT_LE(run.logged.size(), size_t{1} << 18);
  EXPECT_EQ(run.logged.back().step, 300'000);
  EXPECT_NEAR(goodput(run).all.counted, 150'000, 1e-3);
  EXPECT_NEAR(measure(run).step_seconds.mean, 0.5, 1e-12);
}

}  // namespace
}  // namespace nereus::report
