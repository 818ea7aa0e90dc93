// What a run writes besides its metrics: events.jsonl, experts.jsonl, resolved_config.toml.
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "config/load.h"
#include "train/resume_test.h"

namespace nereus {
namespace {

using nlohmann::json;
using test::operator+;
using testing::HasSubstr;

std::vector<json> lines(const std::string& path) {
  std::vector<json> out;
  std::istringstream in(test::read_file(path));
  for (std::string line; std::getline(in, line);) out.push_back(json::parse(line));
  return out;
}

std::vector<std::string> kinds(const std::vector<json>& events) {
  std::vector<std::string> out;
  for (const json& e : events)
    out.push_back(e["kind"].get<std::string>() + " " + std::to_string(e["step"].get<int64_t>()));
  return out;
}

TEST(RunEvents, AreOfAllStartsOfARun) {
  const test::TemporaryFolder f;
  const test::Arguments run = test::saving_run(
      f.path(), {"--checkpoint.interval=4", "--validation.enable", "--validation.dataset=random",
                 "--validation.steps=1", "--validation.freq=3", "--validation.seq_len=16"});
  ASSERT_EQ(test::train_on(1, run + test::Arguments{"--training.steps=5"}).code, 0);
  ASSERT_EQ(test::train_on(1, run).code, 0);
  const std::vector<json> events = lines(f.file("events.jsonl"));
  EXPECT_THAT(kinds(events),
              testing::ElementsAre("start 0", "validation 0", "validation 3", "checkpoint 4",
                                   "validation 5", "checkpoint 5", "end 5", "resume 5",
                                   "validation 6", "checkpoint 6", "end 6"))
      << test::read_file(f.file("events.jsonl"));
  double time = 0;
  for (const json& e : events) {
    EXPECT_GE(e["time"], time);
    time = e["time"];
  }
  EXPECT_GT(events[0]["setup_seconds"], 0);
  EXPECT_GT(events[3]["seconds"], 0);
  EXPECT_EQ(events[3]["state"], "saved");
  EXPECT_EQ(events.back()["exit_code"], 0);
  const json& resumed = events[7];
  EXPECT_EQ(resumed["run"], events[0]["run"]) << "the same run";
  EXPECT_EQ(events[0]["run"], events[0]["start"]);
  EXPECT_NE(resumed["start"], events[0]["start"]);
}

TEST(RunEvents, SayThatARunEndedInNaN) {
  const test::TemporaryFolder f;
  EXPECT_THROW(test::train_on(1, test::small_model(f.path()) +
                                     test::Arguments{"--training.steps=50", "--optimizer.lr=1e30",
                                                     "--lr_scheduler.warmup_steps=1"}),
               Error);
  const json last = lines(f.file("events.jsonl")).back();
  EXPECT_EQ(last["kind"], "nonfinite");
  EXPECT_THAT(last["text"].get<std::string>(), HasSubstr("training cannot go on"));
}

TEST(RunEvents, AFullDiskStopsWhatWritesOnItWithOneWarningAndTrainingGoesOn) {
  const test::TemporaryFolder f;
  std::filesystem::create_symlink("/dev/full", f.file("events.jsonl"));
  const test::WholeRun run = test::train_on(1, test::small_model(f.path()));
  EXPECT_EQ(run.code, 0);
  EXPECT_EQ(lines(f.file("metrics.jsonl")).size(), 3u);
  const std::string warning = "cannot write " + f.file("events.jsonl") + ": No space left";
  EXPECT_THAT(run.log, HasSubstr(warning));
  EXPECT_EQ(run.log.find(warning), run.log.rfind(warning));
}

// Each stage knows its own layers' experts; the file has all, whatever the layout.
TEST(Experts, AreThoseOfAllStagesAndNoneOfTheirTokensIsDropped) {
  const test::TemporaryFolder f;
  const std::string one = f.file("one"), two = f.file("two");
  ASSERT_EQ(test::train_on(1, test::saving_run(one)).code, 0);
  ASSERT_EQ(
      test::train_on(2, test::saving_run(two, {"--parallelism.pipeline_parallel_degree=2",
                                               "--parallelism.pipeline_parallel_microbatch_size=1",
                                               "--training.local_batch_size=8"}))
          .code,
      0);
  const std::vector<json> a = lines(one + "/experts.jsonl"), b = lines(two + "/experts.jsonl");
  ASSERT_EQ(a.size(), 2u) << "the first step and the last";
  EXPECT_EQ(a[0]["counts"], b[0]["counts"]);
  EXPECT_EQ(a[0]["bias"], b[0]["bias"]);
  const json metrics = lines(two + "/metrics.jsonl").front();
  EXPECT_EQ(metrics["expert_dropped"], 0);
  EXPECT_GT(metrics["expert_load_p95"], 0);
  EXPECT_LE(metrics["expert_load_entropy"], 1);
  EXPECT_GT(metrics["expert_bias_max"], metrics["expert_bias_min"]);
  double worst = 0;  // the figure that ranks exchange with every step
  for (const auto& [layer, counts] : a[0]["counts"].items()) {
    double sum = 0, most = 0;
    for (const double n : counts) {
      sum += n;
      most = std::max(most, n);
    }
    worst = std::max(worst, most * static_cast<double>(counts.size()) / sum);
  }
  EXPECT_DOUBLE_EQ(metrics["expert_load_max_over_mean"], worst);
}

TEST(ResolvedConfig, ReadsBackAsTheRunsConfigurationWithOrigins) {
  const test::TemporaryFolder f;
  ASSERT_EQ(test::train_on(1, test::small_model(f.path())).code, 0);
  const std::string text = test::read_file(f.file("resolved_config.toml"));
  EXPECT_THAT(text, HasSubstr("steps = 3  # command line"));
  LoadedConfig read;
  read_toml(text, "resolved_config.toml", read);
  EXPECT_EQ(read.config.training.steps, 3);
  EXPECT_EQ(read.config.job.dump_folder, f.path());
}

}  // namespace
}  // namespace nereus
