// Runs of the recipe held against what the program that trains says of them.
#include "cli/run_facts.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using recipe::RecipeRun;
using recipe::RunFacts;
using recipe::Variables;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::StartsWith;

RunFacts facts(Variables more, const std::vector<std::string>& arguments = {}) {
  more.insert({{"GPU_TYPE", "gb200"}, {"JOB_TOTAL_GPUS", "256"}, {"LLMB_INSTALL", "/none"}});
  return run_check()(
      recipe::resolve_run(more, "/nereus", test::source_path("recipes/deepseek_v3"), arguments));
}
std::string refused(const Variables& more, const std::vector<std::string>& arguments = {}) {
  try {
    facts(more, arguments);
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::kConfig);
    return e.what();
  }
  return "no error";
}

TEST(RunFacts, AreOfTheRankThatNeedsMostOfThePipelineAndOfTheMask) {
  const RunFacts f = facts({});
  EXPECT_THAT(
      f.lines,
      ElementsAre("pp 8 x dp_shard 32, ep 32; batch 16 a GPU, 512 in all; 200 steps of 4096 "
                  "tokens a row",
                  "attention causal, routing forced balance",
                  MatchesRegex("memory [0-9]+\\.[0-9] GiB on rank [0-9]+, which needs most "
                               "\\(gb200: 184\\.[0-9] GiB\\)"),
                  "pipeline idle for 18 % of a step at equal costs of its parts "
                  "(Interleaved1F1B, 16 stages, 16 microbatches)"));
  EXPECT_EQ(f.too_large, "");
  ASSERT_EQ(f.missing.size(), 2u);
  EXPECT_EQ(f.missing[0].path, "/none/datasets/c4");
  EXPECT_EQ(f.missing[0].text,
            "the data set /none/datasets/c4 (training.dataset_path): it is not there; `nereus "
            "download dataset --dir /none/datasets/c4` fetches C4 there");
  EXPECT_THAT(f.missing[1].text, StartsWith("the tokenizer (model.hf_assets_path): /none/"));
  // The last words of the command line count.
  EXPECT_THAT(facts({}, {"--model_overrides.attn_mask_type=block_causal",
                         "--training.debug_moe_force_load_balance=false"})
                  .lines[1],
              "attention document mask, routing learned");
}

// Of a model that has its blocks on one stage, on few GPUs: no schedule and no recompute saves it.
TEST(RunFacts, SayWhenARunDoesNotFit) {
  const Variables few = {
      {"GPU_TYPE", "h100"}, {"JOB_TOTAL_GPUS", "64"}, {"PIPELINE_PARALLEL_DEGREE", "1"}};
  const std::string said = facts(few).too_large;
  EXPECT_THAT(said,
              MatchesRegex("the run needs [0-9.]+ GiB on rank 0 of 64, and a GPU of type h100 "
                           "has [0-9.]+, of which a run may take [0-9.]+\\..*"));
  EXPECT_THAT(said, HasSubstr("\n  total  "));
  EXPECT_EQ(facts(few, {"--device.kind=cpu"}).too_large, "");
}

TEST(RunFacts, RefuseWhatTheRunWouldAndNameWhatWasGiven) {
  EXPECT_THAT(refused({{"PIPELINE_PARALLEL_SCHEDULE", "2F2B"}}), HasSubstr("2F2B"));
  EXPECT_THAT(refused({{"ACTIVATION_CHECKPOINT_MODE", "some"}}), HasSubstr("some"));
  EXPECT_THAT(refused({}, {"--training.stepz=2"}), HasSubstr("training.stepz"));
  EXPECT_THAT(refused({}, {"--parallelism.tensor_parallel_degree=3"}), HasSubstr("3"));
  EXPECT_THAT(refused({{"LOG_RANK", "x"}}), StartsWith("LOG_RANK = \"x\": "));
  EXPECT_THAT(refused({{"LOG_RANK", "448"}}),
              StartsWith("LOG_RANK names rank 448, and the run has ranks 0 to 255: "));
  EXPECT_THAT(refused({}, {"--training.dataset=wikitext"}), HasSubstr("\"wikitext\""));
  EXPECT_THAT(refused({{"SEQ_LEN", "4097"}}), HasSubstr("4097"));
  EXPECT_THAT(refused({}, {"--model_overrides.vocab_size=64",
                           "--model.hf_assets_path=" + test::source_path("assets/tokenizer")}),
              HasSubstr("but the model's vocabulary only 64"));
  EXPECT_EQ(refused({{"LOG_RANK", "255"}}), "no error");
  EXPECT_EQ(refused({}, {"--help"}), "no error");
}

}  // namespace
}  // namespace nereus
