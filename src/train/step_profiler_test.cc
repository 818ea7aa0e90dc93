#include "train/step_profiler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "base/check.h"
#include "observe/trace_account.h"
#include "observe/trace_check_test.h"
#include "train/whole_run_test.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::Arguments;
using test::operator+;
using test::TraceCheck;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::ThrowsMessage;

// Every second step's trace.
Arguments profiled(const std::string& folder, const Arguments& more = {}) {
  return test::small_model(folder) +
         Arguments{"--profiling.enable_profiling", "--profiling.profile_freq=2",
                   "--profiling.profiler_warmup=1"} +
         more;
}

std::set<std::string> files_in(const std::string& folder) {
  std::set<std::string> out;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) out.insert(fs::relative(entry.path(), folder).string());
  return out;
}

json trace_of(const std::string& path) {
  const std::string text = test::read_file(path);
  EXPECT_EQ(TraceCheck::wrong(text), "") << path;
  return json::parse(text);
}

// What ranges of a category are called, by their first word.
std::multiset<std::string> names(const json& trace, const std::string& category) {
  std::multiset<std::string> out;
  for (const json& e : trace["traceEvents"])
    if (e["ph"] == "X" && e["cat"] == category) {
      const std::string name = e["name"];
      out.insert(name.substr(0, name.find(' ')));
    }
  return out;
}

TEST(StepProfiler, WritesTheStepsThatTorchTitanWritesUnderItsNames) {
  const test::TemporaryFolder folder;
  const test::WholeRun run = test::train_on(
      1, profiled(folder.path(), {"--training.steps=5", "--training.global_batch_size=4",
                                  "--checkpoint.enable=true", "--checkpoint.interval=4",
                                  "--profiling.save_traces_folder=traces"}));
  EXPECT_EQ(run.code, 0);
  EXPECT_THAT(files_in(folder.file("traces")),
              ElementsAre("iteration_2/rank0_trace.json", "iteration_4/rank0_trace.json"));
  EXPECT_THAT(run.log,
              HasSubstr("Profiling active. Traces will be saved at " + folder.file("traces")));
  EXPECT_THAT(run.log, HasSubstr("Dumping profiler traces at step 4"));
  const json trace = trace_of(folder.file("traces/iteration_4/rank0_trace.json"));
  EXPECT_EQ(trace["otherData"]["first_step"], 4);
  EXPECT_EQ(trace["otherData"]["last_step"], 4);
  EXPECT_GT(trace["otherData"]["gemm_flops"], trace["otherData"]["attention_flops"]);
  EXPECT_EQ(names(trace, "step"), std::multiset<std::string>{"step"});
  // Two microbatches, gradients in place.
  const auto actions = names(trace, "action");
  EXPECT_EQ(actions.count("forward"), 2u);
  EXPECT_EQ(actions.count("backward"), 2u);
  EXPECT_EQ(actions.count("update"), 1u);
  const auto layers = names(trace, "layer");
  EXPECT_EQ(layers.count("block"), 4u * 2 * 2);
  EXPECT_EQ(layers.count("head"), 2u * 2);
  const auto ops = names(trace, "op");
  for (const char* op : {"matmul", "attention_forward", "attention_backward", "rmsnorm_forward",
                         "router_forward", "grouped_matmul", "cross_entropy", "adam"})
    EXPECT_GT(ops.count(op), 0u) << op;
  EXPECT_GT(names(trace, "optimizer").size(), 0u);
  EXPECT_GT(names(trace, "data").count("next"), 0u);
  EXPECT_GT(names(trace, "waiting").size(), 0u);
  // An arrow for each microbatch.
  int arrows = 0, tokens = 0;
  for (const json& e : trace["traceEvents"]) {
    arrows += e["ph"] == "s" ? 1 : 0;
    if (e["name"] == "tokens") tokens = e["args"]["tokens"];
  }
  EXPECT_EQ(arrows, 2);
  EXPECT_EQ(tokens, 2 * 64);  // since the warm-up began
  const TraceAccount account = account_of_trace(folder.file("traces/iteration_4/rank0_trace.json"));
  EXPECT_GT(account.times.gemms, 0);
  EXPECT_GT(account.memory_bytes, 0);
}

TEST(StepProfiler, OfAGpuHasItsKernelsAndWhereTheyWereLaunched) {
  if (test::devices().size() < 2) GTEST_SKIP() << "no GPU, or a build without GPU code";
  const test::TemporaryFolder folder;
  TrainFlags flags;
  const LoadedConfig loaded = load_config(
      profiled(folder.path(), {"--training.steps=8", "--profiling.enable_memory_snapshot"}), flags);
  ThreadPool pool(1);
  Stream stream(test::devices()[1], &pool);
  const OneRank one;
  {
    Trainer trainer(loaded, stream, *one.all, one.world.rank(0));
    trainer.set_up();
    EXPECT_EQ(trainer.run(), 0);
  }
  for (const char* name : {"profile_traces/iteration_4/rank0_trace.json", "kernels_trace.json"}) {
    const json trace = trace_of(folder.file(name));
    const size_t kernels = names(trace, "kernel").size(), ops = names(trace, "op").size();
    EXPECT_GT(kernels, ops / 2) << name;
    size_t arrows = 0;
    for (const json& e : trace["traceEvents"]) arrows += e["ph"] == "s" && e["cat"] == "ac2g";
    EXPECT_GT(arrows, kernels * 9 / 10) << name;
    EXPECT_GT(names(trace, "gpu_memcpy").size() + names(trace, "gpu_memset").size(), 0u) << name;
    EXPECT_TRUE(account_of_trace(folder.file(name)).of_gpu);
  }
  EXPECT_TRUE(fs::exists(folder.file("memory_snapshot/iteration_8/rank0_memory_snapshot.json")));
}

// Not a bit of what is computed may depend on it.
TEST(StepProfiler, ChangesNothingThatIsComputed) {
  const test::TemporaryFolder with, without;
  const Arguments more = {"--checkpoint.enable=true", "--checkpoint.last_save_model_only=true"};
  EXPECT_EQ(test::train_on(1, profiled(with.path(), more)).code, 0);
  EXPECT_EQ(test::train_on(1, test::small_model(without.path()) + more).code, 0);
  std::set<std::string> saved;
  for (const std::string& name : files_in(without.file("checkpoint/step-3")))
    if (name.ends_with(".safetensors")) saved.insert(name);
  ASSERT_FALSE(saved.empty());
  for (const std::string& name : saved)
    EXPECT_EQ(test::read_file(with.file("checkpoint/step-3/" + name)),
              test::read_file(without.file("checkpoint/step-3/" + name)));
}

// Active steps that the run's end cuts short make a trace, warm-up alone does not; the second trace
// of two covers two steps.
TEST(StepProfiler, AWindowMayHaveSeveralStepsAndBeCutShort) {
  const test::TemporaryFolder folder;
  const Arguments three = profiled(
      folder.path(),
      {"--training.steps=8", "--profiling.profile_freq=5", "--profiling.profiler_active=3"});
  EXPECT_EQ(test::train_on(1, three).code, 0);
  EXPECT_THAT(files_in(folder.file("profile_traces")),
              ElementsAre("iteration_5/rank0_trace.json", "iteration_8/rank0_trace.json"));
  const json whole = trace_of(folder.file("profile_traces/iteration_5/rank0_trace.json"));
  EXPECT_EQ(whole["otherData"]["first_step"], 3);
  EXPECT_EQ(names(whole, "step").size(), 3u);
  const json cut = trace_of(folder.file("profile_traces/iteration_8/rank0_trace.json"));
  EXPECT_EQ(cut["otherData"]["first_step"], 8);
  const test::TemporaryFolder warm;
  EXPECT_EQ(test::train_on(1, profiled(warm.path(), {"--profiling.profile_freq=5"})).code, 0);
  EXPECT_THAT(files_in(warm.file("profile_traces")), ElementsAre());
}

TEST(StepProfiler, OfAPipelineHasItsEdgesAndTheMicrobatchesWayThroughItsStages) {
  const test::TemporaryFolder folder;
  const test::WholeRun run = test::train_on(
      2, profiled(folder.path(), {"--training.steps=2", "--training.local_batch_size=4",
                                  "--parallelism.pipeline_parallel_degree=2",
                                  "--parallelism.pipeline_parallel_schedule=Interleaved1F1B"}));
  EXPECT_EQ(run.code, 0);
  EXPECT_THAT(files_in(folder.file("profile_traces")),
              ElementsAre("iteration_2/rank0_trace.json", "iteration_2/rank1_trace.json"));
  for (const char* rank : {"0", "1"}) {
    const json trace = trace_of(
        folder.file(std::string("profile_traces/iteration_2/rank") + rank + "_trace.json"));
    const auto actions = names(trace, "action");
    EXPECT_GT(actions.count("send"), 0u);
    EXPECT_GT(actions.count("wait"), 0u);
    EXPECT_GT(names(trace, "collective").count("send"), 0u);
    EXPECT_GT(names(trace, "collective").count("all_gather"), 0u);
    std::set<int> stages;
    for (const json& e : trace["traceEvents"])
      if (e["ph"] == "X" && e["args"].contains("stage"))
        stages.insert(e["args"]["stage"].get<int>());
    EXPECT_EQ(stages.size(), 2u);
  }
}

TEST(StepProfiler, WritesForTheRanksThatAreAskedFor) {
  const auto ranks = [](const std::string& which) {
    const test::TemporaryFolder folder;
    EXPECT_EQ(test::train_on(
                  4, profiled(folder.path(), {"--training.steps=2", "--profiling.ranks=" + which,
                                              "--profiling.enable_memory_snapshot",
                                              "--training.local_batch_size=2",
                                              "--parallelism.pipeline_parallel_degree=2"}))
                  .code,
              0);
    std::string out;
    for (const std::string& name : files_in(folder.file("profile_traces/iteration_2")))
      out += name.substr(4, 1);
    for (const std::string& name : files_in(folder.file("memory_snapshot/iteration_2")))
      out += name.substr(4, 1);
    return out;
  };
  EXPECT_EQ(ranks("stage"), "0202");
  EXPECT_EQ(ranks("1,3"), "1313");
}

TEST(StepProfiler, ASnapshotHasTheTableAndWhatActivationsHoldActionByAction) {
  const test::TemporaryFolder folder;
  const test::WholeRun run = test::train_on(
      1, test::small_model(folder.path()) +
             Arguments{"--profiling.enable_memory_snapshot", "--profiling.profile_freq=3",
                       "--training.global_batch_size=4",
                       "--profiling.save_memory_snapshot_folder=memory"});
  EXPECT_THAT(run.log, HasSubstr("Memory profiler active. Snapshot will be saved at " +
                                 folder.file("memory")));
  EXPECT_THAT(files_in(folder.file("memory")),
              ElementsAre("iteration_3/rank0_memory_snapshot.json"));
  const json j =
      json::parse(test::read_file(folder.file("memory/iteration_3/rank0_memory_snapshot.json")));
  EXPECT_EQ(j["rank"], 0);
  EXPECT_EQ(j["step"], 3);
  double total = 0, pass = 0;
  std::set<std::string> owners;
  for (const json& row : j["owners"]) {
    owners.insert(row["owner"]);
    if (!row["host"]) total += row["bytes"].get<double>();
    if (row["owner"] == "activations of a pass") pass = row["bytes"];
  }
  EXPECT_EQ(j["total"], total);
  EXPECT_EQ(owners.count("gradients (f32)"), 1u);
  // The same rows as in the log, which are those that a run without room for them is refused with.
  for (const std::string& owner : owners) EXPECT_THAT(run.log, HasSubstr(owner));
  std::vector<std::string> actions;
  double highest = 0, before = 0;
  for (const json& s : j["series"]) {
    actions.push_back(s["action"]);
    highest = std::max(highest, s["live"]["pass"].get<double>() + s["live"]["kept"].get<double>());
    EXPECT_GE(s["time"].get<double>(), before);
    before = s["time"];
  }
  EXPECT_THAT(actions, ElementsAre("gather", "forward", "backward", "forward", "backward", "reduce",
                                   "update"));
  EXPECT_EQ(highest, pass);
  EXPECT_FALSE(j["pass_by_name"].empty());
}

// Interleaved stages keep microbatches while others pass: what is kept rises and falls to nothing.
TEST(StepProfiler, ASnapshotOfAPipelineShowsMicrobatchesInFlight) {
  const test::TemporaryFolder folder;
  const test::WholeRun run = test::train_on(
      2, test::small_model(folder.path()) +
             Arguments{"--profiling.enable_memory_snapshot", "--profiling.profile_freq=2",
                       "--training.steps=2", "--training.local_batch_size=4",
                       "--parallelism.pipeline_parallel_degree=2",
                       "--parallelism.pipeline_parallel_schedule=1F1B"});
  EXPECT_EQ(run.code, 0);
  const json j = json::parse(
      test::read_file(folder.file("memory_snapshot/iteration_2/rank0_memory_snapshot.json")));
  double most = 0, last = -1, in_flight = 0;
  for (const json& s : j["series"]) {
    last = s["live"]["kept"].get<double>() + s["live"]["edges"].get<double>();
    most = std::max(most, last);
  }
  for (const json& row : j["owners"])
    if (row["owner"] == "activations in flight") in_flight = row["bytes"];
  EXPECT_EQ(last, 0);
  EXPECT_GT(most, 0);
  EXPECT_LE(most, in_flight);
}

TEST(StepProfiler, AFolderThatCannotBeMadeRefusesTheRunAndLeavesNothing) {
  const test::TemporaryFolder folder;
  fs::create_directory(folder.file("run"));
  folder.write("run/profile_traces", "a file");
  folder.write("run/memory_snapshot", "a file");
  EXPECT_THAT([&] { test::train_on(1, profiled(folder.file("run"))); },
              ThrowsMessage<Error>(AllOf(
                  HasSubstr("profiling.save_traces_folder = " + folder.file("run/profile_traces")),
                  HasSubstr("the folder cannot be made: "))));
  EXPECT_THAT(
      [&] {
        test::train_on(1, test::small_model(folder.file("run")) +
                              Arguments{"--profiling.enable_memory_snapshot"});
      },
      ThrowsMessage<Error>(HasSubstr("profiling.save_memory_snapshot_folder = ")));
  EXPECT_THAT(files_in(folder.file("run")), ElementsAre("memory_snapshot", "profile_traces"));
}

// As on a full disk: files end after so many bytes.
TEST(StepProfiler, OnAFullDiskTrainingGoesOnAfterOneWarning) {
  const test::TemporaryFolder folder;
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const auto before = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = 16 << 10, .rlim_max = old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const test::WholeRun run = test::train_on(1, profiled(folder.path(), {"--training.steps=6"}));
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, before);
  EXPECT_EQ(run.code, 0);
  const std::string file = folder.file("profile_traces/iteration_2/rank0_trace.json");
  const size_t warning = run.log.find("cannot write " + file);
  ASSERT_NE(warning, std::string::npos) << run.log;
  EXPECT_THAT(run.log, HasSubstr("Training goes on; this rank writes no more profiles."));
  EXPECT_EQ(run.log.find("cannot write", warning + 1), std::string::npos);
  EXPECT_THAT(run.log, HasSubstr("Training completed"));
  EXPECT_THAT(files_in(folder.file("profile_traces")), ElementsAre());
}

TEST(StepProfiler, TracesBeyondTheLastStepAreAWarning) {
  const test::TemporaryFolder folder;
  const test::WholeRun run = test::train_on(
      1, profiled(folder.path(), {"--profiling.profile_freq=10", "--profiling.profiler_warmup=3"}));
  EXPECT_EQ(run.code, 0);
  EXPECT_THAT(run.log,
              HasSubstr("profiling.profile_freq = 10: the first profile would be of step 10, and "
                        "the run ends with step 3: none will be written. "
                        "--profiling.profile_freq=3 --profiling.profiler_warmup=2 writes one."));
  const test::TemporaryFolder written;
  EXPECT_THAT(test::train_on(1, profiled(written.path())).log,
              Not(HasSubstr("none will be written")));
}

}  // namespace
}  // namespace nereus
