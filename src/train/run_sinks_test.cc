// Whole runs and the viewers of their users: TensorBoard, Weights & Biases, Prometheus.
#include "train/run_sinks.h"

#include <gmock/gmock.h>

#include <cmath>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "base/log_listener.h"
#include "observe/prometheus_sink.h"
#include "test/child_process.h"
#include "test/viewers.h"
#include "train/resume_test.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::operator+;
using testing::HasSubstr;

// A variable of the environment while this lives.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    if (const char* const before = std::getenv(name)) before_ = before;
    ::setenv(name, value.c_str(), 1);
  }
  ~Variable() { before_ ? ::setenv(name_, before_->c_str(), 1) : ::unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

std::vector<std::string> folders_in(const std::string& folder) {
  std::vector<std::string> out;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_directory()) out.push_back(entry.path());
  std::sort(out.begin(), out.end());
  return out;
}

// Every file below a folder, as one text.
std::string all_files(const std::string& folder) {
  std::string out;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) out += test::read_file(entry.path());
  return out;
}

test::Arguments viewed_run(const std::string& folder) {
  return test::saving_run(
      folder, {"--training.steps=80", "--checkpoint.interval=50", "--metrics.enable_tensorboard",
               "--metrics.enable_wandb", "--metrics.histogram_freq=20"});
}

// Dies when it has logged step 70, of which all sinks were told.
const test::ChildFunction killed("a run that is killed after step 70", [] {
  log::set_rank(0, false);
  const log::Listener listener([](bool, std::string_view line) {
    if (line.starts_with("step: 71 ")) std::raise(SIGKILL);
  });
  test::train_on(1, viewed_run(test::given("FOLDER")));
});

class KilledAndResumed : public testing::Test {
 protected:
  static const test::TemporaryFolder& folder() {
    static const test::TemporaryFolder f;
    static const bool ran = [] {
      const Variable offline("WANDB_MODE", "offline");
      test::Child child("a run that is killed after step 70", {{"FOLDER", f.path()}});
      child.wait();
      EXPECT_EQ(child.status(), -SIGKILL);
      EXPECT_EQ(test::train_on(1, viewed_run(f.path())).code, 0);
      return true;
    }();
    EXPECT_TRUE(ran);
    return f;
  }
  static std::map<int64_t, double> losses() {
    std::map<int64_t, double> out;
    for (const char* file : {"metrics.1.jsonl", "metrics.jsonl"}) {
      std::istringstream in(test::read_file(folder().file(file)));
      for (std::string line; std::getline(in, line);) {
        const json m = json::parse(line);
        out[m["step"]] = m["loss"];
      }
    }
    return out;
  }
};

// What TensorBoard shows has each step once: steps 51 to 70, which were trained twice, too.
TEST_F(KilledAndResumed, TensorBoardShowsEachStepOnceInOneFolder) {
  NEREUS_VIEWER(python, "python");
  const std::vector<std::string> runs = folders_in(folder().file("tb"));
  ASSERT_EQ(runs.size(), 1u);
  ASSERT_EQ(std::distance(fs::directory_iterator(runs[0]), fs::directory_iterator()), 2);
  const json read = json::parse(
      test::output_of(python + " " + test::source_path("tests/viewers/tensorboard_read.py") + " " +
                      runs[0] + " 2>" + folder().file("said")));
  std::map<int64_t, double> shown;
  for (const json& point : read["scalars"]["loss_metrics/global_avg_loss"]) {
    EXPECT_FALSE(shown.contains(point[0])) << "step " << point[0] << " twice";
    shown[point[0]] = point[1];
  }
  EXPECT_EQ(shown.size(), 80u);
  for (const auto& [step, loss] : losses())
    EXPECT_FLOAT_EQ(static_cast<float>(shown[step]), static_cast<float>(loss));
  std::vector<int64_t> steps;
  for (const json& point : read["histograms"]["expert_load/layer_1(ratio)"])
    steps.push_back(point[0]);
  EXPECT_THAT(steps, testing::ElementsAre(1, 21, 41, 51, 71, 80));
}

TEST_F(KilledAndResumed, WandbHasBothStartsUnderOneIdWithRowsCountedOn) {
  NEREUS_VIEWER(python, "python");
  NEREUS_VIEWER(wandb, "wandb");
  const std::vector<std::string> starts = folders_in(folder().file("wandb"));
  ASSERT_EQ(starts.size(), 2u);
  const std::string id = starts[0].substr(starts[0].rfind('-') + 1);
  EXPECT_TRUE(starts[1].ends_with("-" + id));
  int64_t next = 0;
  std::map<int64_t, double> shown;
  for (const std::string& start : starts) {
    const json records = json::parse(
        test::output_of(python + " " + test::source_path("tests/viewers/wandb_read.py") + " " +
                        start + "/run-" + id + ".wandb"));
    for (const json& r : records) {
      if (!r.contains("history")) continue;
      json row;
      for (const json& item : r["history"]["item"])
        row[item["nested_key"][0].get<std::string>()] =
            json::parse(item["value_json"].get<std::string>());
      EXPECT_EQ(row["_step"], next++);
      if (row.contains("loss_metrics/global_avg_loss"))
        shown[row["step"]] = row["loss_metrics/global_avg_loss"];
    }
  }
  EXPECT_EQ(shown, losses()) << "later rows of a step count";
  const json seen =
      json::parse(test::output_of(wandb + " leet inspect --summary --json " + starts[1] + " 2>&1"));
  EXPECT_THAT(seen.dump(), testing::AllOf(HasSubstr(id), HasSubstr("global_avg_loss"),
                                          HasSubstr("Training completed"), HasSubstr("finished")));
}

TEST(RunSinks, GradientNormsByLayerAreTogetherTheStepsNorm) {
  const test::TemporaryFolder f;
  for (const int ranks : {1, 4}) {
    SCOPED_TRACE(ranks);
    const std::string place = f.file(std::to_string(ranks));
    std::vector<std::string> layout;
    if (ranks == 4)
      layout = {"--parallelism.pipeline_parallel_degree=2", "--training.local_batch_size=4",
                "--parallelism.pipeline_parallel_microbatch_size=1",
                "--parallelism.data_parallel_shard_degree=2"};
    const Variable offline("WANDB_MODE", "offline");
    ASSERT_EQ(test::train_on(
                  ranks, test::saving_run(place, {"--training.steps=2", "--metrics.enable_wandb",
                                                  "--metrics.grad_norm_by_layer"}) +
                             layout)
                  .code,
              0);
    const std::vector<std::string> starts = folders_in(place + "/wandb");
    ASSERT_EQ(starts.size(), 1u);
    const std::string id = starts[0].substr(starts[0].rfind('-') + 1);
    double squares = 0, norm = 0;
    int layers = 0;
    visit_wandb_records(starts[0] + "/run-" + id + ".wandb", [&](const std::string& text) {
      const auto value = [&](const std::string& name) {
        const size_t at = text.find(name);
        EXPECT_NE(at, std::string::npos);
        return std::stod(text.substr(at + name.size() + 3));  // tag 16 of two bytes, a length
      };
      if (text.find("layer_0(norm)") == std::string::npos) return;
      squares = 0, layers = 0;
      norm = value("\x12\tgrad_norm");
      for (size_t at = 0; (at = text.find("grad_norm_by_layer/", at)) != std::string::npos; ++at) {
        squares += std::pow(value(text.substr(at, text.find(')', at) + 1 - at)), 2);
        ++layers;
      }
    });
    EXPECT_GE(layers, 3);
    EXPECT_NEAR(std::sqrt(squares), norm, 1e-6 * norm);
  }
}

TEST(RunSinks, AFolderThatCannotBeMadeIsSaidBeforeTheRunAndNothingStays) {
  const test::TemporaryFolder f;
  f.write("file", "");
  EXPECT_THAT(
      [&] {
        test::train_on(1, test::small_model(f.file("run")) +
                              test::Arguments{"--metrics.enable_tensorboard",
                                              "--metrics.save_tb_folder=../file"});
      },
      testing::ThrowsMessage<Error>(HasSubstr("metrics.save_tb_folder = ")));
  const Variable folder("WANDB_DIR", f.file("file"));
  EXPECT_THAT(
      [&] {
        test::train_on(
            1, test::small_model(f.file("run")) + test::Arguments{"--metrics.enable_wandb"});
      },
      testing::ThrowsMessage<Error>(HasSubstr("WANDB_DIR = ")));
  EXPECT_FALSE(fs::exists(f.file("run")));
}

TEST(RunSinks, APortInUseIsSaidBeforeTheRunAndNothingStays) {
  const test::TemporaryFolder f;
  const std::string port = std::to_string(test::free_port());
  const PrometheusSink taken("127.0.0.1", std::stol(port));
  EXPECT_THAT(
      [&] {
        test::train_on(1, test::small_model(f.file("run")) +
                              test::Arguments{"--metrics.prometheus_port=" + port});
      },
      testing::ThrowsMessage<Error>(HasSubstr("metrics.prometheus_port = " + port)));
  EXPECT_FALSE(fs::exists(f.file("run")));
}

TEST(Wandb, SaysOnceThatThereIsNoKeyAndWhatSendsTheRun) {
  const test::TemporaryFolder f;
  const Variable home("HOME", f.path()), key("WANDB_API_KEY", ""), mode("WANDB_MODE", "");
  const test::WholeRun run = test::train_on(
      1, test::small_model(f.file("run")) + test::Arguments{"--metrics.enable_wandb"});
  EXPECT_EQ(run.code, 0);
  const std::string said = "there is no key (WANDB_API_KEY, or `wandb login`)";
  EXPECT_THAT(run.log, HasSubstr(said));
  EXPECT_EQ(run.log.find(said), run.log.rfind(said));
  EXPECT_THAT(run.log, HasSubstr("`wandb sync " + f.file("run") + "/wandb/offline-run-*-"));
}

TEST(Wandb, DisabledWritesNothing) {
  const test::TemporaryFolder f;
  const Variable mode("WANDB_MODE", "disabled");
  const test::WholeRun run =
      test::train_on(1, test::small_model(f.path()) + test::Arguments{"--metrics.enable_wandb"});
  EXPECT_EQ(run.code, 0);
  EXPECT_FALSE(fs::exists(f.file("wandb")));
  EXPECT_THAT(run.log, HasSubstr("WANDB_MODE is disabled: nothing is written"));
}

// A program in wandb's place writes down how it was called.
TEST(Wandb, SyncSendsAllStartsAtTheEndAndTheKeyIsInNoFileLogOrProcessList) {
  const test::TemporaryFolder f;
  const std::string program = f.write(
      "bin/wandb", "#!/bin/sh\necho \"$@\" >" + f.file("called") + "\ncat /proc/$$/cmdline >>" +
                       f.file("called") + "\n[ -n \"$WANDB_API_KEY\" ] && echo key >>" +
                       f.file("called") + "\nexit 3\n");
  fs::permissions(program, fs::perms::owner_all);
  const Variable key("WANDB_API_KEY", "s3cret-key");
  const Variable path("PATH", f.file("bin") + ":" + std::getenv("PATH"));
  const test::WholeRun run =
      test::train_on(1, test::small_model(f.file("run")) +
                            test::Arguments{"--metrics.enable_wandb", "--metrics.wandb_sync"});
  EXPECT_EQ(run.code, 0);
  const std::string called = test::read_file(f.file("called"));
  EXPECT_THAT(called, testing::StartsWith("sync " + f.file("run") + "/wandb/offline-run-"));
  EXPECT_THAT(called, HasSubstr("key\n")) << "it has the key";
  EXPECT_THAT(run.log, HasSubstr("`wandb sync` ended with exit code 3"));
  EXPECT_THAT(run.log + called + all_files(f.file("run")), testing::Not(HasSubstr("s3cret")));
}

TEST(MetricsRank, IsTorchTitans) {
  const Mesh one({}, 8);
  EXPECT_EQ(metrics_rank(one, "1F1B"), 0);
  const Mesh pipeline({.pp = 8}, 512);
  EXPECT_EQ(metrics_rank(pipeline, "1F1B"), 448);
  EXPECT_EQ(metrics_rank(pipeline, "ZBVZeroBubble"), 0);
}

TEST(RunSinks, EventsOfAllRanksAreInFoldersOfTheirOwn) {
  const test::TemporaryFolder f;
  const test::Arguments run =
      test::saving_run(f.path(), {"--training.steps=2", "--metrics.enable_tensorboard"});
  ASSERT_EQ(test::train_on(2, run + test::Arguments{"--metrics.save_for_all_ranks"}).code, 0);
  const std::vector<std::string> starts = folders_in(f.file("tb"));
  ASSERT_EQ(starts.size(), 1u);
  const std::string name = fs::path(starts[0]).filename();
  EXPECT_THAT(name, testing::MatchesRegex("[0-9]{8}-[0-9]{4}"));
  EXPECT_THAT(folders_in(starts[0]),
              testing::ElementsAre(starts[0] + "/rank_0", starts[0] + "/rank_1"));
}

}  // namespace
}  // namespace nereus
