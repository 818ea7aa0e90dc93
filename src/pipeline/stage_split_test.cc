#include "pipeline/stage_split.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "base/error.h"

namespace nereus {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<int64_t> sizes(const std::vector<Stage::Part>& parts) {
  std::vector<int64_t> out;
  int64_t next = 0;
  for (const Stage::Part& p : parts) {
    EXPECT_EQ(p.first_block, next) << "blocks follow each other";
    next = p.end_block;
    out.push_back(p.end_block - p.first_block);
    EXPECT_EQ(p.embedding, &p == &parts.front());
    EXPECT_EQ(p.head, &p == &parts.back());
  }
  return out;
}

std::string refusal(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::kConfig);
    return e.what();
  }
  return "no error";
}

JobConfig::Parallelism parallelism(int64_t pp) {
  JobConfig::Parallelism p;
  p.pipeline_parallel_degree = pp;
  return p;
}

TEST(StageSplit, The671BModelIsCutAsTorchTitanCutsIt) {
  EXPECT_THAT(sizes(split_layers(61, 8, 1, 1)), ElementsAre(7, 8, 8, 8, 8, 8, 8, 6));
  EXPECT_THAT(sizes(split_layers(61, 4, 1, 1)), ElementsAre(15, 16, 16, 14));
  EXPECT_THAT(sizes(split_layers(61, 2, 1, 1)), ElementsAre(31, 30));
  std::vector<int64_t> sixteen(16, 4);
  sixteen.front() = 3;
  sixteen.back() = 2;
  EXPECT_EQ(sizes(split_layers(61, 16, 1, 1)), sixteen);
  std::vector<int64_t> thirty_two(32, 2);
  thirty_two.front() = 1;
  thirty_two.back() = 0;  // the head alone
  EXPECT_EQ(sizes(split_layers(61, 32, 1, 1)), thirty_two);
}

TEST(StageSplit, EverySplitHoldsEveryLayerOnce) {
  for (int64_t layers = 1; layers <= 20; ++layers) {
    EXPECT_THAT(sizes(split_layers(layers, 1, 3, 3)), ElementsAre(layers));
    for (int64_t less = 0; less <= 2; ++less) {
      for (int stages = 2; stages <= layers + 2 * less; ++stages) {
        if ((layers + 2 * less) / stages < less) continue;
        int64_t sum = 0;
        for (const int64_t n : sizes(split_layers(layers, stages, less, less))) sum += n;
        EXPECT_EQ(sum, layers) << layers << " " << stages << " " << less;
      }
    }
  }
}

TEST(StageSplit, SplitsThatCannotBeAreRefused) {
  EXPECT_EQ(refusal([] { split_layers(4, 8, 1, 1); }),
            "Number of stages (8) cannot be greater than effective layers (6)\n"
            "  4 layers, parallelism.pipeline_parallel_first_stage_less_layers = 1, "
            "parallelism.pipeline_parallel_last_stage_less_layers = 1.\n"
            "  Use a lower pipeline_parallel_degree, or fewer stages a rank.");
  EXPECT_THAT(refusal([] { split_layers(8, 8, 3, 0); }),
              HasSubstr("input_weight (3) exceeds minimum layers per stage (1).\n"));
  EXPECT_THAT(refusal([] { split_layers(8, 8, 0, 2); }),
              testing::AllOf(HasSubstr("output_weight (2) exceeds minimum layers per stage (1).\n"),
                             HasSubstr("Lower pipeline_parallel_last_stage_less_layers to 1.")));
}

TEST(StageSplit, TheNumberOfStagesFollowsFromScheduleOrLayersPerStage) {
  JobConfig::Parallelism p = parallelism(8);
  EXPECT_EQ(stages_per_rank(p, "1F1B", 61), 1);
  EXPECT_EQ(stages_per_rank(p, "Interleaved1F1B", 61), 2);
  p.pipeline_parallel_layers_per_stage = 2;  // ceil(63 / 2) = 32
  EXPECT_EQ(stages_per_rank(p, "Interleaved1F1B", 61), 4);
  EXPECT_THAT(refusal([&] { stages_per_rank(p, "1F1B", 61); }),
              testing::StartsWith(
                  "Single stage schedule requires exactly 1 stage per rank, but got 4 stages per "
                  "rank. Model has 61 layers with pipeline_parallel_layers_per_stage=2. Please "
                  "increase pipeline_parallel_layers_per_stage to 8 or higher"));
  p.pipeline_parallel_layers_per_stage = 8;
  EXPECT_EQ(stages_per_rank(p, "1F1B", 61), 1);
  EXPECT_THAT(refusal([&] { stages_per_rank(p, "LoopedBFS", 61); }),
              testing::StartsWith("Multi-stage schedule requires at least 2 stages per rank, but "
                                  "got 1 stages per rank. Model has 61 layers"));
  p.pipeline_parallel_layers_per_stage = 5;
  EXPECT_THAT(refusal([&] { stages_per_rank(p, "1F1B", 61); }),
              testing::StartsWith("Number of virtual stages (13) must be divisible by pipeline "
                                  "parallel size (8). Model has 61 layers with "
                                  "pipeline_parallel_layers_per_stage=5."));
}

TEST(StageSplit, NamedPartsOverrideTheRule) {
  JobConfig::Parallelism p = parallelism(2);
  p.module_fqns_per_model_part = std::vector<Strings>{
      {"tok_embeddings"}, {"layers.0", "layers.1"}, {"layers.2"}, {"norm", "output"}};
  EXPECT_EQ(stages_per_rank(p, "Interleaved1F1B", 3), 2);
  EXPECT_THAT(sizes(split_model(p, 3, 4)), ElementsAre(0, 2, 1, 0));
  EXPECT_THAT(refusal([&] { split_model(p, 3, 2); }), HasSubstr("has 4 parts, and the schedule 2"));
  p.pipeline_parallel_degree = 3;
  EXPECT_THAT(refusal([&] { stages_per_rank(p, "Interleaved1F1B", 3); }),
              testing::StartsWith("num_stages 4 must be evenly divisible by pp_degree 3\n"));
}

TEST(StageSplit, NamedPartsThatAreNoModelAreRefused) {
  const auto says = [](const std::vector<Strings>& names, const char* text) {
    EXPECT_THAT(refusal([&] { split_by_names(2, names); }), HasSubstr(text));
  };
  says({{"layers.0"}, {"layers.1", "norm", "output"}}, "part 0: tok_embeddings is missing");
  says({{"tok_embeddings", "layers.1"}, {"layers.0", "norm", "output"}},
       "part 0: layers.1 where layers.0 is expected");
  says({{"tok_embeddings", "layers.0"}, {"tok_embeddings", "layers.1", "norm", "output"}},
       "part 1: tok_embeddings is not first");
  says({{"tok_embeddings", "layers.0"}, {"norm", "output"}}, "part 1: layers.1 is in no part");
  says({{"tok_embeddings", "layers.0", "layers.1"}, {"output"}}, "output where norm is expected");
  says({{"tok_embeddings", "layers.0", "layers.1", "norm"}, {"output"}},
       "part 0: norm without output");
  says({{"tok_embeddings", "layers.0"}, {"layers.1"}}, "norm and output are in no part");
  says({{"tok_embeddings", "layers.0"}, {"layers.1", "norm", "output", "layers.2"}},
       "layers.2 comes after norm");
}

TEST(StageSplit, MicrobatchesAreTheLocalBatchInParts) {
  EXPECT_EQ(pipeline_microbatches(16, 2), 8);
  EXPECT_EQ(
      refusal([] { pipeline_microbatches(16, 3); }),
      "Batch size 16 must be divisible by microbatch_size 3. Update the config arguments for "
      "either batch_size or pipeline_parallel_microbatch_size.\n  training.local_batch_size = "
      "16, parallelism.pipeline_parallel_microbatch_size = 3.");
  EXPECT_EQ(few_microbatches_warning(8, 8, 0.4), "");
  EXPECT_EQ(few_microbatches_warning(4, 8, 0.63637),
            "Number of microbatches (4) is less than the total number of stages (8) which may "
            "result in a bubble in the pipeline. Here ranks are idle 63.6 % of the step.");
}

}  // namespace
}  // namespace nereus
