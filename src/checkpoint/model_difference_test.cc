#include "checkpoint/model_difference.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "base/log.h"
#include "checkpoint/hf_config.h"
#include "config/job_config.h"
#include "test/small_models.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using Json = nlohmann::json;
using Lines = std::vector<std::string>;
using testing::ElementsAre;
using testing::IsEmpty;

class ModelDifference : public testing::Test {
 protected:
  ModelArgs read(const std::string& text) const {
    return model_args_from_hf_config(folder_.write("config.json", text));
  }
  // What a run of `saved` leaves, against a run of `run`.
  Lines against(const ModelArgs& saved, const ModelArgs& run,
                WeightsOf whose = WeightsOf::this_run) const {
    return model_differences(read(hf_config_json(saved)), run, whose);
  }
  test::TemporaryFolder folder_;
};

// The released model's config.json, what matters of it.
const char* const kReleased = R"({
    "architectures": ["DeepseekV3ForCausalLM"], "eos_token_id": 1, "first_k_dense_replace": 3,
    "hidden_size": 7168, "intermediate_size": 18432, "kv_lora_rank": 512,
    "max_position_embeddings": 163840, "model_type": "deepseek_v3", "moe_intermediate_size": 2048,
    "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": true,
    "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61,
    "num_key_value_heads": 128, "num_nextn_predict_layers": 1, "q_lora_rank": 1536,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06,
    "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0,
      "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096, "type": "yarn"},
    "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
    "topk_group": 4, "topk_method": "noaux_tc", "torch_dtype": "bfloat16", "v_head_dim": 128,
    "vocab_size": 129280})";

TEST_F(ModelDifference, TheReleasedModelIsTheFlavor671B) {
  const ModelArgs released = read(kReleased);
  for (const int64_t sequence : {512, 4096, 8192, 163840}) {
    ModelArgs run = model_args_of_flavor("671B");
    run.max_seq_len = sequence;
    run.vocab_size += 128;  // padded
    EXPECT_THAT(model_differences(released, run, WeightsOf::others), IsEmpty());
    set_family(run, NumericsFamily::huggingface);
    run.norm_eps = 1e-6;
    EXPECT_THAT(model_differences(released, run, WeightsOf::others), IsEmpty());
    run.norm_eps = 1e-5;
    EXPECT_THAT(model_differences(released, run, WeightsOf::others),
                ElementsAre("norm_eps (rms_norm_eps): 1e-06 there, 1e-05 here"));
  }
}

// Every flavor and family under random model_overrides, as a configuration resolves them.
TEST_F(ModelDifference, ARunsOwnSaveIsItsModel) {
  std::mt19937 random(1);
  const auto one_of = [&](auto first, auto... more) {
    const std::vector<decltype(first)> all{first, static_cast<decltype(first)>(more)...};
    return all[random() % all.size()];
  };
  const log::Capture quiet;
  int compared = 0;
  for (int trial = 0; trial < 400; ++trial) {
    JobConfig c;
    const Lines flavors = model_flavors();
    c.model.flavor = flavors[random() % flavors.size()];
    auto& o = c.model_overrides;
    const auto maybe = [&](auto& option, auto... values) {
      if (random() % 3 == 0) option = one_of(values...);
    };
    if (random() % 2 == 0) c.numerics.family = NumericsFamily::huggingface;
    c.training.seq_len = one_of(64, 4096, 4097, 20000);
    maybe(o.dim, 64, 100);
    maybe(o.n_layers, 1, 4);
    maybe(o.n_dense_layers, 0, 1, 4);
    maybe(o.n_heads, 2, 3);
    maybe(o.num_experts, 16, 32, 64);
    maybe(o.num_shared_experts, 0, 1, 3);
    maybe(o.top_k, 1, 2, 7);
    maybe(o.q_lora_rank, 0, 24);
    maybe(o.qk_rope_head_dim, 8, 16);
    maybe(o.n_expert_groups, 1, 4, 8);
    maybe(o.n_limited_groups, 1, 2, 4);
    maybe(o.original_seq_len, 32, 4096, 10000);
    maybe(o.norm_eps, 1e-6, 0.1, 1.0 / 3);
    maybe(o.rope_theta, 10000.0, 1e6, 12345.678);
    maybe(o.rope_factor, 0.5, 1.0, 4.0, 10.0 / 3);
    maybe(o.beta_fast, 32.0, 7.3);
    maybe(o.beta_slow, 1.0, 0.1);
    maybe(o.mscale, 1.0, 0.707, 1.0 / 7);
    maybe(o.route_norm, true, false);
    maybe(o.route_scale, 1.0, 2.5, 0.1);
    maybe(o.score_before_experts, true, false);
    maybe(o.load_balance_coeff, 0.0, 1e-3);
    maybe(o.score_func, ScoreFunction::sigmoid, ScoreFunction::softmax);
    ModelArgs run;
    try {
      run = resolve_model_args(c);
    } catch (const Error&) {
      continue;  // sizes that contradict each other
    }
    if (run.rope_factor < 1 && rope_parameters(run).yarn) continue;  // config.json has no such YaRN
    ++compared;
    SCOPED_TRACE(hf_config_json(run));
    EXPECT_THAT(against(run, run), IsEmpty());
    EXPECT_THAT(against(run, run, WeightsOf::others), IsEmpty());
    // The same model in a run with other sequences.
    if (run.numerics.yarn == YarnRule::where_configured) {
      ModelArgs longer = run;
      longer.max_seq_len *= 3;
      EXPECT_THAT(against(run, longer), IsEmpty());
      EXPECT_THAT(against(longer, run), IsEmpty());
    }
  }
  EXPECT_GT(compared, 100);
}

TEST_F(ModelDifference, EveryKindOfModelIsItself) {
  for (const test::NamedModel& a : test::every_kind_of_model()) {
    SCOPED_TRACE(a.name);
    EXPECT_THAT(against(a.args, a.args), IsEmpty());
  }
  for (const char* name : {"hf_tiny/v3", "hf_tiny/no_q_lora", "hf_tiny/no_yarn", "hf_tiny/eps"}) {
    const ModelArgs a = model_args_from_hf_config(
        test::source_path(std::string("tests/golden/") + name + "/config.json"));
    EXPECT_THAT(model_differences(a, a, WeightsOf::this_run), IsEmpty()) << name;
    EXPECT_THAT(against(a, a), IsEmpty()) << name;
  }
  for (const char* name : {"debug_small", "v3_small", "v3_small_yarn_doc"}) {
    const std::string folder =
        test::source_path(std::string("tests/golden/torchtitan_debug/") + name + "/step/");
    EXPECT_THAT(model_differences(model_args_from_hf_config(folder + "config.json"),
                                  model_args_from_torchtitan_json(folder + "torchtitan_args.json"),
                                  WeightsOf::this_run),
                IsEmpty())
        << name;
  }
}

TEST_F(ModelDifference, NamesAllThatShapesDoNotShow) {
  ModelArgs saved = test::three_blocks();
  ModelArgs run = saved;
  run.moe.top_k = 3;
  run.moe.score_func = ScoreFunction::softmax;
  run.moe.route_norm = false;
  run.moe.route_scale = 1;
  run.rope_theta = 5e5;
  run.norm_eps = 1e-6;
  EXPECT_THAT(against(saved, run),
              ElementsAre("norm_eps (rms_norm_eps): 1e-05 there, 1e-06 here",
                          "top_k (num_experts_per_tok): 2 there, 3 here",
                          "score_func (scoring_func): sigmoid there, softmax here",
                          "route_norm (norm_topk_prob): true there, false here",
                          "route_scale (routed_scaling_factor): 2.5 there, 1 here",
                          "rope_theta: 10000 there, 500000 here"));
  run = saved;
  run.n_heads = 4;  // of half the width
  run.qk_nope_head_dim = 4;
  run.qk_rope_head_dim = 2;
  run.v_head_dim = 4;
  EXPECT_THAT(against(saved, run),
              ElementsAre("n_heads (num_attention_heads): 2 there, 4 here",
                          "qk_nope_head_dim: 8 there, 4 here", "qk_rope_head_dim: 4 there, 2 here",
                          "v_head_dim: 8 there, 4 here"));
}

TEST_F(ModelDifference, OfTheRotaryEmbeddingAndTheGroupsWhatTheFamilyUses) {
  ModelArgs saved = test::with_yarn(test::three_blocks());
  ModelArgs run = saved;
  run.rope_factor = 4;
  run.beta_fast = 3;
  run.beta_slow = 0.5;
  run.original_seq_len = 5;
  run.mscale = 0.7;
  EXPECT_THAT(
      against(saved, run),
      ElementsAre("rope_factor (rope_scaling.factor): 3 there, 4 here",
                  "beta_fast: 2 there, 3 here", "beta_slow: 0.25 there, 0.5 here",
                  "original_seq_len (original_max_position_embeddings): 4 there, 5 here",
                  "mscale: 1 there, 0.7 here", "mscale (mscale_all_dim): 1 there, 0.7 here"));
  // YaRN begins with the length; at the same length it is another model.
  run = saved;
  run.max_seq_len = 3;
  EXPECT_THAT(against(saved, run), IsEmpty());
  EXPECT_THAT(against(run, saved), IsEmpty());
  run = saved;
  run.original_seq_len = 4096;
  EXPECT_THAT(against(saved, run), ElementsAre("YaRN (rope_scaling): on there, off here"));
  EXPECT_THAT(against(run, saved), ElementsAre("YaRN (rope_scaling): off there, on here"));

  saved = test::with_expert_groups(test::three_blocks());
  run = saved;
  run.n_limited_groups = 3;
  EXPECT_THAT(against(saved, run), ElementsAre("n_limited_groups (topk_group): 2 there, 3 here"));
  run.n_limited_groups = 4;  // all of four, or one group: no restriction
  ModelArgs one = run;
  one.n_expert_groups = one.n_limited_groups = 1;
  EXPECT_THAT(against(run, one), IsEmpty());
  run = saved;
  run.hf_yarn = false;
  EXPECT_THAT(against(saved, run), ElementsAre("YaRN (rope_scaling): on there, off here"));
}

TEST_F(ModelDifference, FindsTheConfigBesideWeights) {
  EXPECT_EQ(config_beside(folder_.path()), std::nullopt);
  folder_.write("model.safetensors", "");
  EXPECT_EQ(config_beside(folder_.file("model.safetensors")), std::nullopt);
  const std::string config = folder_.write("config.json", "{}");
  EXPECT_EQ(config_beside(folder_.path()), config);
  EXPECT_EQ(config_beside(folder_.file("model.safetensors")), config);
  EXPECT_EQ(config_beside(folder_.file("none")), config);
}

}  // namespace
}  // namespace nereus
