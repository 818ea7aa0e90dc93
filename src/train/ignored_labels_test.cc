// Labels of -100 in whole runs: left out of loss, gradient and validation wherever they are, and
// nowhere else. The mean is over the labels of the global batch that count; a mean of ranks' means
// is another number, since ranks, microbatches and parts of a sequence have few, one or none.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "tensor/safetensors.h"
#include "test/test_tensor.h"
#include "train/whole_run_test.h"

namespace nereus {
namespace {

using test::Arguments;
using testing::HasSubstr;
using testing::ThrowsMessage;
using test::operator+;

constexpr int64_t kRows = 8, kSequence = 16, kSteps = 4;

// Does the label of a token count? In the first step those of row 0 alone, in the third none; in
// the others every (row + 1)-th, and none of row 3.
bool counts(int64_t step, int64_t row, int64_t at) {
  if (step == 0) return row == 0;
  return step != 2 && row != 3 && at % (row + 1) == 0;
}

// A set of kSteps batches. `counts`: of step, row and position.
template <class Counts>
std::string write_set(const std::string& path, const Counts& counts) {
  std::vector<int64_t> inputs, labels;
  for (int64_t i = 0; i < kSteps * kRows * kSequence; ++i) {
    const int64_t step = i / (kRows * kSequence), row = i / kSequence % kRows, at = i % kSequence;
    inputs.push_back((i * i + 3 * i) % 61);
    labels.push_back(counts(step, row, at) ? (i * 7 + 5) % 61 : -100);
  }
  const std::vector<int64_t> shape{kSteps * kRows, kSequence};
  SafetensorsWriter writer(path, {{.name = "inputs", .dtype = FileDType::i64, .shape = shape},
                                  {.name = "labels", .dtype = FileDType::i64, .shape = shape}});
  writer.append(0, std::as_bytes(std::span(inputs)));
  writer.append(1, std::as_bytes(std::span(labels)));
  writer.finish();
  return path;
}

Arguments training(const std::string& folder, const std::string& set) {
  return test::small_model(folder) + Arguments{"--training.dataset=tokens",
                                               "--training.dataset_path=" + set,
                                               "--training.steps=4",
                                               "--training.local_batch_size=1",
                                               "--training.global_batch_size=8",
                                               "--validation.enable",
                                               "--validation.dataset=tokens",
                                               "--validation.dataset_path=" + set,
                                               "--validation.steps=-1",
                                               "--validation.seq_len=16",
                                               "--validation.local_batch_size=1"};
}

struct Figures {
  std::vector<double> losses, norms, validation;
  std::vector<int64_t> tokens_seen;
  int64_t overflows = 0;
};
Figures figures(int ranks, const std::string& folder, const Arguments& arguments) {
  EXPECT_EQ(test::train_on(ranks, arguments).code, 0);
  Figures out;
  std::istringstream in(test::read_file(folder + "/metrics.jsonl"));
  for (std::string line; std::getline(in, line);) {
    const auto all = nlohmann::json::parse(line);
    if (all.contains("validation_loss")) out.validation.push_back(all["validation_loss"]);
    if (!all.contains("loss")) continue;
    out.losses.push_back(all["loss"]);
    out.norms.push_back(all["grad_norm"]);
    out.tokens_seen.push_back(all["tokens_seen"]);
    out.overflows = all["expert_overflows"];
  }
  return out;
}

TEST(IgnoredLabels, AreLeftOutOnEveryLayout) {
  const test::TemporaryFolder f;
  const std::string set = write_set(f.file("tokens.safetensors"), counts);
  const auto of = [&](int ranks, const Arguments& more) {
    return figures(ranks, f.file("run"), training(f.file("run"), set) + more);
  };
  const Figures one = of(1, {});
  ASSERT_EQ(one.losses.size(), 4u);
  ASSERT_EQ(one.validation.size(), 2u);
  EXPECT_EQ(one.losses[2], 0) << "no label counts";
  EXPECT_EQ(one.norms[2], 0);
  EXPECT_THAT(one.tokens_seen, testing::ElementsAre(128, 256, 384, 512)) << "all tokens";
  // The first step is that of its first row, which all have labels.
  const Figures row = of(1, {"--training.global_batch_size=1", "--training.steps=1"});
  EXPECT_NEAR(one.losses[0], row.losses[0], 1e-6 * row.losses[0]);
  EXPECT_NEAR(one.norms[0], row.norms[0], 1e-5 * row.norms[0]);

  int64_t overflows = 0;
  const std::vector<std::pair<int, Arguments>> layouts = {
      {1, {"--training.local_batch_size=4"}},
      {4, {"--training.local_batch_size=2"}},
      {4, {}},  // two microbatches a step
      {4,
       {"--parallelism.data_parallel_replicate_degree=2",
        "--parallelism.fsdp_reshard_after_forward=always"}},
      {2, {"--parallelism.expert_parallel_degree=2"}},
      {2,
       {"--parallelism.expert_parallel_degree=2", "--parallelism.expert_dispatcher=device",
        "--parallelism.expert_capacity_factor=0.3"}},
      {2, {"--parallelism.tensor_parallel_degree=2"}},
      {4, {"--parallelism.context_parallel_degree=4"}},
      {4,
       {"--parallelism.pipeline_parallel_degree=2", "--parallelism.tensor_parallel_degree=2",
        "--training.local_batch_size=4"}},
      {4,
       {"--parallelism.pipeline_parallel_degree=2", "--training.local_batch_size=4",
        "--parallelism.pipeline_parallel_schedule=ZBVZeroBubble",
        "--parallelism.context_parallel_degree=2"}}};
  for (const auto& [ranks, more] : layouts) {
    SCOPED_TRACE(testing::PrintToString(more));
    const Figures it = of(ranks, more);
    ASSERT_EQ(it.losses.size(), one.losses.size());
    for (size_t i = 0; i < one.losses.size(); ++i) {
      EXPECT_NEAR(it.losses[i], one.losses[i], 5e-6 * one.losses[i]) << "step " << i + 1;
      EXPECT_NEAR(it.norms[i], one.norms[i], 2e-5 * one.norms[i]) << "step " << i + 1;
    }
    ASSERT_EQ(it.validation.size(), one.validation.size());
    for (size_t i = 0; i < one.validation.size(); ++i)
      EXPECT_NEAR(it.validation[i], one.validation[i], 5e-6 * one.validation[i]);
    EXPECT_EQ(it.tokens_seen, one.tokens_seen);
    overflows += it.overflows;
  }
  EXPECT_GT(overflows, 0) << "no step ran again";
}

// A set with labels that are all there counts nothing: its numbers are those of a run that never
// heard of ignored labels. One with a single -100 in rows that are not read counts the same.
TEST(IgnoredLabels, ThatAreNotReadChangeNoBit) {
  const test::TemporaryFolder f;
  const auto run = [&](const std::string& set) {
    return figures(2, f.file("run"),
                   training(f.file("run"), set) + Arguments{"--training.steps=3"});
  };
  const Figures whole = run(write_set(f.file("whole.safetensors"), [](auto...) { return true; }));
  const Figures last =
      run(write_set(f.file("last.safetensors"), [](int64_t step, auto...) { return step < 3; }));
  EXPECT_EQ(last.losses, whole.losses);
  EXPECT_EQ(last.norms, whole.norms);
  EXPECT_NE(last.validation, whole.validation);
}

TEST(IgnoredLabels, AValidationSetNeedsOneThatCounts) {
  const test::TemporaryFolder f;
  const std::string set = write_set(f.file("tokens.safetensors"), counts),
                    none = write_set(f.file("none.safetensors"), [](auto...) { return false; });
  for (const int ranks : {1, 2})
    EXPECT_THAT(
        [&] {
          test::train_on(
              ranks, training(f.file("run"), set) + Arguments{"--validation.dataset_path=" + none});
        },
        ThrowsMessage<Error>(HasSubstr(
            "validation.dataset_path = " + none +
            ": each of the 512 labels to be read is -100, which is ignored: there is no loss "
            "without one. Give the set labels, or more rows (validation.steps).")));
}

}  // namespace
}  // namespace nereus
