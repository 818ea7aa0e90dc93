// Keys that choose: words become enums once, and back, by one table.
#include "config/choices.h"

#include <gmock/gmock.h>

#include "config/load.h"

namespace nereus {
namespace {

using testing::ElementsAre;

JobConfig load(const std::vector<std::string>& arguments) {
  TrainFlags flags;
  return load_config(arguments, flags).config;
}

template <class E>
void expect_words(const Strings& words) {
  Strings all;
  for (const Word<E>& w : kWords<E>) {
    all.emplace_back(w.text);
    EXPECT_EQ(value_of<E>(word(w.value)), w.value);
  }
  EXPECT_EQ(all, words);
  EXPECT_EQ(value_of<E>("other"), std::nullopt);
}

TEST(Choices, EachValueHasItsWord) {
  expect_words<DType>({"float32", "bfloat16", "float16"});
  expect_words<Offload>({"none", "moments", "states"});
  expect_words<MasterType>({"float32", "split"});
  expect_words<OptimizerName>({"Adam", "AdamW"});
  expect_words<LrDecay>({"linear", "sqrt", "cosine"});
  expect_words<DataOrder>({"global", "torchtitan"});
  expect_words<BrokenShard>({"stop", "skip"});
  expect_words<DeviceChoice>({"auto", "cpu", "cuda"});
  expect_words<AttentionChoice>({"own", "cudnn"});
  expect_words<ReshardPolicy>({"default", "always", "never"});
  expect_words<ExpertDispatcher>({"auto", "device", "host_counts"});
  expect_words<RecomputeMode>({"selective", "full", "none", "memory_budget"});
  expect_words<RecomputePart>({"norms", "mla_up", "assembly", "swiglu", "dispatch", "gate_up"});
  expect_words<NumericsFamily>({"torchtitan", "huggingface"});
  expect_words<ScoreFunction>({"softmax", "sigmoid"});
  expect_words<MaskType>({"causal", "block_causal"});
}

TEST(Choices, AListIsReplacedByItsFirstFlagAndAppendedToByTheNext) {
  EXPECT_THAT(load({"--activation_checkpoint.recompute=swiglu,norms",
                    "--activation_checkpoint.recompute=dispatch"})
                  .activation_checkpoint.recompute,
              ElementsAre(RecomputePart::swiglu, RecomputePart::norms, RecomputePart::dispatch));
  EXPECT_TRUE(load({"--activation_checkpoint.recompute="}).activation_checkpoint.recompute.empty());
}

TEST(Choices, AnOptionalOneMayHaveNoValue) {
  const auto family = [](const char* text) {
    return load({std::string("--numerics.family=") + text}).numerics.family;
  };
  EXPECT_EQ(family("huggingface"), NumericsFamily::huggingface);
  EXPECT_EQ(family("None"), std::nullopt);
  EXPECT_EQ(family(""), std::nullopt);
}

TEST(Choices, APrintedConfigurationHasTheWords) {
  JobConfig c;
  c.optimizer.offload = Offload::states;
  c.numerics.family = NumericsFamily::huggingface;
  const std::string lines = config_lines(c);
  for (const char* line :
       {"optimizer.offload=\"states\"\n", "numerics.family=\"huggingface\"\n",
        "model_overrides.score_func=None\n", "training.mixed_precision_param=\"bfloat16\"\n",
        "activation_checkpoint.recompute=[\"norms\", \"mla_up\", \"swiglu\", \"dispatch\"]\n"})
    EXPECT_THAT(lines, testing::HasSubstr(line));
}

}  // namespace
}  // namespace nereus
