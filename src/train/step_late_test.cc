// What a run learns a step late: experts over their capacity, and values that are not finite.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "base/log.h"
#include "comm/thread_ranks.h"
#include "config/load.h"
#include "test/test_tensor.h"
#include "train/whole_run_test.h"

namespace nereus {
namespace {

using test::Arguments;
using testing::HasSubstr;
using test::operator+;

constexpr int kSteps = 9;

// Experts of three layers on several ranks; only the first and the last step are logged, so that
// what happens in between is learnt late.
Arguments small(const std::string& folder, const Arguments& more) {
  return test::small_model(folder) +
         Arguments{"--model_overrides.num_experts=8",
                   "--training.local_batch_size=1",
                   "--training.global_batch_size=8",
                   "--training.steps=" + std::to_string(kSteps),
                   "--optimizer.lr=1e-2",
                   "--lr_scheduler.warmup_steps=2",
                   "--checkpoint.enable",
                   "--checkpoint.last_save_in_hf",
                   "--metrics.log_freq=" + std::to_string(kSteps)} +
         more;
}

std::string train(int ranks, const Arguments& arguments) {  // rank 0's log
  const test::WholeRun run = test::train_on(ranks, arguments);
  EXPECT_EQ(run.code, 0);
  EXPECT_EQ(run.seconds.size(), static_cast<size_t>(kSteps));
  return run.log;
}

std::string weights_of(const std::string& folder) {
  return test::read_file(folder + "/checkpoint/step-" + std::to_string(kSteps) +
                         "/model.safetensors");
}

std::vector<nlohmann::json> metrics_of(const std::string& folder) {
  std::vector<nlohmann::json> out;
  std::istringstream in(test::read_file(folder + "/metrics.jsonl"));
  for (std::string line; std::getline(in, line);) out.push_back(nlohmann::json::parse(line));
  return out;
}

// The steps that were run again, in the order of the log.
std::vector<int> run_again(const std::string& log) {
  std::vector<int> steps;
  std::istringstream lines(log);
  for (std::string line; std::getline(lines, line);) {
    const size_t at = line.find("Step ");
    int step = 0, wanted = 0, had = 0, has = 0;
    if (at == std::string::npos ||
        std::sscanf(line.c_str() + at,
                    "Step %d: a rank's experts were sent %d rows of a microbatch, over their "
                    "capacity of %d. It runs again with a capacity of %d;",
                    &step, &wanted, &had, &has) != 4)
      continue;
    EXPECT_GT(wanted, had);
    EXPECT_GE(has, wanted);
    steps.push_back(step);
  }
  return steps;
}

struct Case {
  const char* name;
  int ranks;
  Arguments arguments;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }
class Overflow : public testing::TestWithParam<Case> {};

// The judge: the same layout with capacity for any routing.
TEST_P(Overflow, ARunWithTooLittleCapacityEqualsOneThatHadEnoughBitForBit) {
  const Case& c = GetParam();
  const test::TemporaryFolder folder;
  const auto run = [&](const std::string& bound) {
    Arguments more = c.arguments;
    more.push_back("--parallelism.expert_capacity_factor=" + bound);
    return train(c.ranks, small(folder.file(bound), more));
  };
  EXPECT_EQ(run_again(run("0")), std::vector<int>());
  const std::string weights = weights_of(folder.file("0"));
  const std::vector<nlohmann::json> metrics = metrics_of(folder.file("0"));
  EXPECT_EQ(metrics.back()["expert_overflows"], 0);
  int late = 0;  // a step that is not logged, with another enqueued after it
  for (const char* bound : {"0.3", "1.3", "1.4", "1.5"}) {
    SCOPED_TRACE(bound);
    const std::vector<int> again = run_again(run(bound));
    EXPECT_TRUE(weights_of(folder.file(bound)) == weights);
    const std::vector<nlohmann::json> mine = metrics_of(folder.file(bound));
    ASSERT_EQ(mine.size(), metrics.size());
    for (size_t i = 0; i < mine.size(); ++i)
      for (const char* key :
           {"step", "loss", "grad_norm", "lr", "tokens_seen", "expert_load_max_over_mean"})
        EXPECT_EQ(mine[i].value(key, 0.0), metrics[i].value(key, 0.0)) << key;
    EXPECT_EQ(mine.back()["expert_overflows"], again.size());
    EXPECT_TRUE(!again.empty() || std::string(bound) != "0.3");
    for (const int step : again) late += step > 1 && step < kSteps - 1;
  }
  EXPECT_GT(late, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, Overflow,
    testing::Values(
        Case{"fsdp", 4, {"--parallelism.expert_parallel_degree=4"}},
        Case{"accumulation", 2, {"--parallelism.expert_parallel_degree=2"}},
        Case{"reduce_last",
             2,
             {"--parallelism.expert_parallel_degree=2",
              "--parallelism.fsdp_reshard_after_forward=never"}},
        Case{"recompute",
             2,
             {"--parallelism.expert_parallel_degree=2", "--activation_checkpoint.mode=full"}},
        Case{
            "pipeline",
            4,
            {"--parallelism.expert_parallel_degree=2", "--parallelism.pipeline_parallel_degree=2"}},
        Case{"zero_bubble",
             4,
             {"--parallelism.expert_parallel_degree=2", "--parallelism.pipeline_parallel_degree=2",
              "--parallelism.pipeline_parallel_schedule=ZBVZeroBubble"}},
        Case{"device",
             2,
             {"--parallelism.expert_parallel_degree=2", "--parallelism.expert_dispatcher=device"}},
        Case{"device_pipeline",
             4,
             {"--parallelism.expert_parallel_degree=2", "--parallelism.pipeline_parallel_degree=2",
              "--parallelism.pipeline_parallel_schedule=ZBVZeroBubble",
              "--parallelism.expert_dispatcher=device"}},
        Case{"tensor",
             4,
             {"--parallelism.expert_parallel_degree=4", "--parallelism.tensor_parallel_degree=2"}}),
    [](const testing::TestParamInfo<Case>& i) { return std::string(i.param.name); });

// Held-out rows may be routed otherwise than those of training.
TEST(Overflow, ValidationIsDoneAgainToo) {
  const test::TemporaryFolder folder;
  const auto run = [&](const std::string& bound) {
    const Arguments more = {"--parallelism.expert_parallel_degree=2",
                            "--validation.enable",
                            "--validation.dataset=random",
                            "--validation.steps=4",
                            "--validation.freq=4",
                            "--validation.local_batch_size=1",
                            "--validation.seq_len=16",
                            "--parallelism.expert_capacity_factor=" + bound};
    const std::vector<int> again = run_again(train(2, small(folder.file(bound), more)));
    std::vector<double> losses;
    for (const nlohmann::json& m : metrics_of(folder.file(bound)))
      if (m.contains("validation_loss")) losses.push_back(m["validation_loss"]);
    EXPECT_EQ(losses.size(), 4u);  // before, after steps 4, 8 and 9
    return std::pair(again, losses);
  };
  const auto enough = run("0"), tight = run("0.5");
  EXPECT_TRUE(enough.first.empty());
  ASSERT_FALSE(tight.first.empty());
  EXPECT_EQ(tight.first.front(), 0) << "the validation before the first step";
  EXPECT_EQ(tight.second, enough.second);
  EXPECT_TRUE(weights_of(folder.file("0.5")) == weights_of(folder.file("0")));
}

// Learnt at once or a step late, by one rank or several: the same message of the same step.
TEST(Nonfinite, IsFoundAStepLateInTheStepWhereItWas) {
  const auto message = [](int ranks, int log_freq, Arguments more) {
    const test::TemporaryFolder folder;
    more.insert(more.end(), {"--optimizer.lr=1e18", "--lr_scheduler.warmup_steps=0",
                             "--training.global_batch_size=8",
                             "--metrics.log_freq=" + std::to_string(log_freq)});
    try {
      train(ranks, small(folder.path(), more));
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), Fault::kNumeric);
      EXPECT_EQ(metrics_of(folder.path()).size(), 1u) << "the first step";
      return std::string(e.what());
    }
    return std::string("nothing was wrong");
  };
  const std::string one = message(1, 1, {});
  EXPECT_THAT(one, HasSubstr("step 2: loss is "));
  EXPECT_THAT(one, HasSubstr("  first: layers.0 "));
  EXPECT_THAT(one, HasSubstr(" of microbatch 0 has "));
  EXPECT_THAT(one, HasSubstr("The weights are those after step 1."));
  EXPECT_EQ(message(1, 100, {}), one);
  for (const Arguments& more : {Arguments{"--parallelism.expert_parallel_degree=2"},
                                Arguments{"--parallelism.pipeline_parallel_degree=2"}}) {
    const std::string two = message(2, 1, more);
    EXPECT_THAT(two, HasSubstr("step 2: loss is "));
    EXPECT_THAT(two, HasSubstr("  first: on rank 0, layers.0 "));
    EXPECT_EQ(message(2, 100, more), two);
  }
}

}  // namespace
}  // namespace nereus
