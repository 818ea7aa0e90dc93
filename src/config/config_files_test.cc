// The configurations that are shipped.
#include <gmock/gmock.h>

#include "config/load.h"
#include "config/model_args.h"
#include "config/model_flops.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using testing::ElementsAre;

LoadedConfig load(const std::string& file, std::vector<std::string> more = {}) {
  TrainFlags flags;
  more.insert(more.begin(), test::source_path(file));
  return load_config(more, flags);
}

TEST(ShippedConfigs, AreReadWithoutAnError) {
  for (const char* file :
       {"configs/tiny.toml", "configs/debug_model.toml", "configs/deepseek_v3_16b.toml",
        "configs/deepseek_v3_671b.toml", "recipes/deepseek_v3/deepseek_v3_671b.toml"}) {
    SCOPED_TRACE(file);
    const LoadedConfig loaded = load(file);
    EXPECT_NO_THROW(resolve_model_args(loaded.config));
    EXPECT_EQ(loaded.config.model.name, "deepseek_v3");
  }
}

// Its keys and values are held against NVIDIA's in recipe/nvidia_settings_test.cc.
TEST(ShippedConfigs, TheRecipesHasOneNoticeOfWhatHasNothingToActOn) {
  const LoadedConfig loaded = load("recipes/deepseek_v3/deepseek_v3_671b.toml");
  EXPECT_EQ(loaded.config.global_batch(512), 16 * 512);
  EXPECT_THAT(loaded.notices, ElementsAre(testing::StartsWith("These settings have no effect")));
}

TEST(ShippedConfigs, TheRecipesModelHas671026404352Parameters) {
  const ModelArgs args =
      resolve_model_args(load("recipes/deepseek_v3/deepseek_v3_671b.toml").config);
  EXPECT_EQ(model_size(args).total(), 671026404352);
  EXPECT_EQ(args.max_seq_len, 4096);
  EXPECT_FALSE(rope_parameters(args).yarn);
  EXPECT_TRUE(args.block_causal());
}

// Forced balance is how the benchmark is run; standard causal attention is what it was measured
// with.
TEST(ShippedConfigs, TheRecipesCommandLineIsTaken) {
  const ModelArgs args =
      resolve_model_args(load("recipes/deepseek_v3/deepseek_v3_671b.toml",
                              {"--training.debug_moe_force_load_balance",
                               "--model_overrides.use_flex_attn=false", "--training.steps=60"})
                             .config);
  EXPECT_TRUE(args.moe.force_load_balance);
  EXPECT_FALSE(args.block_causal());
}

// What `make train` trains: small, but with every part of DeepSeek-V3.
TEST(ShippedConfigs, TheDefaultIsASmallDeepSeekV3OfTheRealVocabulary) {
  const JobConfig c = load("configs/tiny.toml").config;
  const ModelArgs a = resolve_model_args(c);
  EXPECT_EQ(a.vocab_size, 129280);
  EXPECT_EQ(a.dim, 128);
  EXPECT_EQ(a.n_layers, 4);
  EXPECT_EQ(a.n_dense_layers, 1);
  EXPECT_EQ(a.moe.num_experts, 8);
  EXPECT_EQ(a.moe.top_k, 2);
  EXPECT_GT(a.q_lora_rank, 0);
  EXPECT_TRUE(a.block_causal());
  EXPECT_EQ(c.training.local_batch_size * c.training.seq_len, 512);
  EXPECT_TRUE(c.validation.enable);
}

}  // namespace
}  // namespace nereus
