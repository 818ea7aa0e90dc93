// Model arguments: flavors, files, overrides, and what follows for rotary embedding.
#include "config/model_args.h"

#include <gmock/gmock.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "config/job_config.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using nlohmann::json;
using testing::HasSubstr;

template <class F>
std::string message(F f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.exit_code(), 2);
    return e.what();
  }
  return "no error";
}

std::string golden(const std::string& path) { return test::source_path("tests/golden/" + path); }

// The released model's config.json, what matters of it.
json deepseek_v3() {
  return json::parse(R"({
    "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false, "eos_token_id": 1,
    "first_k_dense_replace": 3, "hidden_act": "silu", "hidden_size": 7168,
    "intermediate_size": 18432, "kv_lora_rank": 512, "max_position_embeddings": 163840,
    "model_type": "deepseek_v3", "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8,
    "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": true,
    "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61,
    "num_key_value_heads": 128, "num_nextn_predict_layers": 1, "q_lora_rank": 1536,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06,
    "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0,
      "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096, "type": "yarn"},
    "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
    "tie_word_embeddings": false, "topk_group": 4, "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16", "v_head_dim": 128, "vocab_size": 129280})");
}

class HfConfigJson : public testing::Test {
 protected:
  ModelArgs read(const json& config) const {
    return model_args_from_hf_config(folder_.write("config.json", config.dump()));
  }
  std::string error(const json& config) const {
    std::string text = message([&] { read(config); });
    const std::string path = folder_.file("config.json");
    if (text.starts_with(path)) text.erase(0, path.size());
    return text;
  }
  test::TemporaryFolder folder_;
};

// The five flavors' sizes that their parameter counts (model_flops_test.cc) do not tell apart.
TEST(Flavors, AreTorchTitans) {
  EXPECT_THAT(model_flavors(),
              testing::ElementsAre("debugmodel", "debugmodel_flex_attn", "16B", "236B", "671B"));
  for (const std::string& flavor : model_flavors()) {
    SCOPED_TRACE(flavor);
    const ModelArgs a = model_args_of_flavor(flavor);
    const bool debug = flavor.starts_with("debug"), large = flavor == "671B";
    EXPECT_EQ(a.flavor, flavor);
    EXPECT_EQ(a.numerics.family, NumericsFamily::torchtitan);
    EXPECT_EQ(a.moe.score_func, large ? ScoreFunction::sigmoid : ScoreFunction::softmax);
    EXPECT_EQ(a.moe.route_norm, large);
    EXPECT_EQ(a.moe.route_scale, large ? 2.5 : flavor == "236B" ? 16.0 : 1.0);
    EXPECT_EQ(a.moe.top_k, large ? 8 : debug ? 3 : 6);
    EXPECT_FALSE(a.moe.score_before_experts);
    EXPECT_FALSE(a.moe.force_load_balance);
    EXPECT_EQ(a.moe.load_balance_coeff, 1e-3);
    EXPECT_EQ(a.norm_eps, 1e-5);
    EXPECT_EQ(a.final_norm_eps(), 1.1920929e-07);
    EXPECT_EQ(a.mscale, large || flavor == "236B" ? 1.0 : 0.70);
    EXPECT_EQ(a.block_causal(), flavor != "debugmodel");
    EXPECT_EQ(a.use_flex_attn, flavor != "debugmodel");
    EXPECT_EQ(a.rope_theta, 10000);
    EXPECT_EQ(a.rope_factor, 40);
    EXPECT_EQ(a.original_seq_len, 4096);
    EXPECT_NO_THROW(check(a));
  }
  EXPECT_EQ(message([] { model_args_of_flavor("672B"); }),
            "model.flavor = \"672B\": deepseek_v3 has the flavors debugmodel, "
            "debugmodel_flex_attn, 16B, 236B, 671B; did you mean 671B?");
}

TEST(TorchTitanArguments, AreReadFromTheirFile) {
  const ModelArgs a = model_args_from_torchtitan_json(
      golden("torchtitan_debug/v3_small_yarn_doc/step/torchtitan_args.json"));
  EXPECT_EQ(a.numerics.family, NumericsFamily::torchtitan);
  EXPECT_EQ(a.max_seq_len, 64);
  EXPECT_EQ(a.original_seq_len, 32);
  EXPECT_EQ(a.rope_factor, 8);
  EXPECT_EQ(a.q_lora_rank, 32);
  EXPECT_EQ(a.moe.top_k, 3);
  EXPECT_EQ(a.moe.score_func, ScoreFunction::sigmoid);
  EXPECT_TRUE(a.moe.route_norm);
  EXPECT_EQ(a.moe.route_scale, 2.5);
  EXPECT_FALSE(a.moe.use_grouped_mm);
  EXPECT_TRUE(a.block_causal());
  EXPECT_TRUE(rope_parameters(a).yarn);
  const ModelArgs b = model_args_from_torchtitan_json(
      golden("torchtitan_debug/debug_small/step/torchtitan_args.json"));
  EXPECT_EQ(b.q_lora_rank, 0);
  EXPECT_EQ(b.moe.score_func, ScoreFunction::softmax);
  EXPECT_FALSE(b.block_causal());
}

TEST(TorchTitanArguments, MeanACausalMaskWithoutFlexAttention) {
  const test::TemporaryFolder folder;
  EXPECT_FALSE(model_args_from_torchtitan_json(
                   folder.write("a.json", R"({"attn_mask_type": "block_causal"})"))
                   .block_causal());
  EXPECT_TRUE(
      model_args_from_torchtitan_json(
          folder.write("a.json", R"({"attn_mask_type": "block_causal", "use_flex_attn": true})"))
          .block_causal());
}

TEST(TorchTitanArguments, HaveNoBiasWhereTheCoefficientIsNull) {
  const test::TemporaryFolder folder;
  const auto coefficient = [&](const char* text) {
    return model_args_from_torchtitan_json(folder.write("a.json", text)).moe.load_balance_coeff;
  };
  EXPECT_EQ(coefficient(R"({"moe_args": {"load_balance_coeff": null}})"), 0);
  EXPECT_EQ(coefficient(R"({"moe_args": {}})"), 1e-3);
}

TEST(TorchTitanArguments, NameTheFieldThatIsWrong) {
  const test::TemporaryFolder folder;
  const std::string path = folder.file("a.json");
  const auto error = [&](const char* text) {
    return message([&] { model_args_from_torchtitan_json(folder.write("a.json", text)); });
  };
  EXPECT_EQ(error(R"({"dim": "wide"})"), path + ": dim = \"wide\": it must be an integer");
  EXPECT_EQ(error(R"({"dim": 64.0})"), path + ": dim = 64.0: it must be an integer");
  EXPECT_EQ(error(R"({"dim": 9223372036854775808})"),
            path + ": dim = 9223372036854775808: it must be an integer");
  EXPECT_EQ(error(R"({"dmi": 64})"),
            path + ": dmi is not an argument of the model; did you mean dim?");
  EXPECT_EQ(error(R"({"moe_args": {"topk": 2}})"),
            path + ": moe_args.topk is not an argument of the model; did you mean top_k?");
  EXPECT_EQ(error(R"({"moe_args": {"score_func": "tanh"}})"),
            path + ": moe_args.score_func = \"tanh\": it must be sigmoid or softmax");
  EXPECT_EQ(error(R"({"attn_mask_type": "full"})"),
            path + ": attn_mask_type = \"full\": it must be causal or block_causal");
  EXPECT_EQ(error("[1]"), path + ": it must be a JSON object");
  EXPECT_THAT(error("{\"dim\": 64"), testing::StartsWith(path + ": not JSON: "));
  EXPECT_EQ(message([] { model_args_from_torchtitan_json("missing.json"); }),
            "missing.json: cannot be read; the model's arguments come from it");
}

TEST(ModelArguments, ThatContradictEachOtherAreNamed) {
  const auto error = [](auto change) {
    ModelArgs a = model_args_of_flavor("671B");
    change(a);
    return message([&] { check(a); });
  };
  EXPECT_EQ(error([](ModelArgs&) {}), "no error");
  EXPECT_EQ(error([](ModelArgs& a) { a.dim = 0; }),
            "model 671B: dim = 0: it must be at least 1 and at most 2147483647");
  EXPECT_EQ(error([](ModelArgs& a) { a.qk_rope_head_dim = 63; }),
            "model 671B: qk_rope_head_dim = 63: rotary embedding turns pairs; it must be even, at "
            "least 2");
  EXPECT_EQ(error([](ModelArgs& a) { a.n_dense_layers = 62; }),
            "model 671B: n_dense_layers = 62 of n_layers = 61: it must be between 0 and n_layers");
  EXPECT_EQ(
      error([](ModelArgs& a) { a.moe.top_k = 257; }),
      "model 671B: top_k = 257 of num_experts = 256: a token needs between 1 and all of them");
  EXPECT_EQ(error([](ModelArgs& a) { a.norm_eps = std::nan(""); }),
            "model 671B: norm_eps = nan: it must be greater than 0");
  EXPECT_THAT(error([](ModelArgs& a) { a.dim = a.inter_dim = a.moe_inter_dim = 1 << 30; }),
              HasSubstr("parameters; at most 1e15 can be counted"));
  // Groups limit the choice in Hugging Face's family only.
  EXPECT_EQ(error([](ModelArgs& a) { a.moe.num_experts = 255; }), "no error");
  EXPECT_EQ(error([](ModelArgs& a) {
              a.numerics = numerics_of(NumericsFamily::huggingface);
              a.moe.num_experts = 255;
            }),
            "model 671B: num_experts = 255 do not divide into n_expert_groups = 8");
  EXPECT_EQ(error([](ModelArgs& a) {  // the rule is asked, not the family
              a.numerics = numerics_of(NumericsFamily::huggingface);
              a.numerics.expert_groups = false;
              a.moe.num_experts = 255;
            }),
            "no error");
  EXPECT_EQ(error([](ModelArgs& a) {
              a.numerics = numerics_of(NumericsFamily::huggingface);
              a.moe.top_k = 129;
            }),
            "model 671B: top_k = 129, but 4 groups of 32 experts leave only 128 to choose from");
  EXPECT_EQ(error([](ModelArgs& a) {
              a.numerics = numerics_of(NumericsFamily::huggingface);
              a.moe.score_func = ScoreFunction::softmax;
            }),
            "model 671B: score_func = softmax: numerics.family = huggingface has sigmoid scores "
            "only; use family torchtitan");
}

TEST_F(HfConfigJson, OfTheReleasedModelIs671B) {
  const ModelArgs a = read(deepseek_v3()), b = model_args_of_flavor("671B");
  EXPECT_EQ(a.numerics.family, NumericsFamily::huggingface);
  EXPECT_EQ(a.vocab_size, b.vocab_size);
  EXPECT_EQ(a.dim, b.dim);
  EXPECT_EQ(a.inter_dim, b.inter_dim);
  EXPECT_EQ(a.moe_inter_dim, b.moe_inter_dim);
  EXPECT_EQ(a.n_layers, b.n_layers);
  EXPECT_EQ(a.n_dense_layers, b.n_dense_layers);
  EXPECT_EQ(a.n_heads, b.n_heads);
  EXPECT_EQ(a.moe.num_experts, b.moe.num_experts);
  EXPECT_EQ(a.moe.num_shared_experts, b.moe.num_shared_experts);
  EXPECT_EQ(a.moe.top_k, b.moe.top_k);
  EXPECT_EQ(a.moe.score_func, b.moe.score_func);
  EXPECT_EQ(a.moe.route_norm, b.moe.route_norm);
  EXPECT_EQ(a.moe.route_scale, b.moe.route_scale);
  EXPECT_EQ(a.moe.score_before_experts, b.moe.score_before_experts);
  EXPECT_EQ(a.n_expert_groups, b.n_expert_groups);
  EXPECT_EQ(a.n_limited_groups, b.n_limited_groups);
  EXPECT_EQ(a.q_lora_rank, b.q_lora_rank);
  EXPECT_EQ(a.kv_lora_rank, b.kv_lora_rank);
  EXPECT_EQ(a.qk_head_dim(), b.qk_head_dim());
  EXPECT_EQ(a.v_head_dim, b.v_head_dim);
  EXPECT_EQ(a.norm_eps, 1e-6);
  EXPECT_EQ(a.final_norm_eps(), 1e-6);
  EXPECT_EQ(a.eos_id, 1);
  EXPECT_TRUE(a.hf_yarn);
  EXPECT_NO_THROW(check(a));
}

TEST_F(HfConfigJson, OfTheGoldenModelsIsRead) {
  const ModelArgs v3 = model_args_from_hf_config(golden("hf_tiny/v3/config.json"));
  EXPECT_EQ(v3.q_lora_rank, 32);
  EXPECT_EQ(v3.n_expert_groups, 4);
  EXPECT_EQ(v3.n_limited_groups, 2);
  EXPECT_EQ(v3.moe.num_shared_experts, 2);
  const ModelArgs no_q = model_args_from_hf_config(golden("hf_tiny/no_q_lora/config.json"));
  EXPECT_EQ(no_q.q_lora_rank, 0);
  EXPECT_FALSE(no_q.moe.route_norm);
  EXPECT_EQ(no_q.moe.route_scale, 1.0);
  EXPECT_EQ(no_q.mscale, 0.707);
  const ModelArgs no_yarn = model_args_from_hf_config(golden("hf_tiny/no_yarn/config.json"));
  EXPECT_FALSE(no_yarn.hf_yarn);
  EXPECT_EQ(no_yarn.n_layers, 2);
  EXPECT_EQ(hf_config_eos_id(golden("torchtitan_debug/debug_small/step/config.json")), 1);
}

TEST_F(HfConfigJson, MayUseEitherSpelling) {
  json config = deepseek_v3();
  json rope = config["rope_scaling"];
  config.erase("rope_scaling");
  config.erase("rope_theta");
  rope.erase("type");
  rope["rope_type"] = "yarn";
  rope["rope_theta"] = 50000;
  config["rope_parameters"] = rope;
  config.erase("torch_dtype");
  config["dtype"] = "bfloat16";
  const ModelArgs a = read(config);
  EXPECT_TRUE(a.hf_yarn);
  EXPECT_EQ(a.rope_factor, 40);
  EXPECT_EQ(a.rope_theta, 50000);
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 20000}};
  EXPECT_FALSE(read(config).hf_yarn);
  EXPECT_EQ(read(config).rope_theta, 20000);
}

TEST_F(HfConfigJson, LeavesOutWhatHasTransformersDefaults) {
  json config = deepseek_v3();
  const ModelArgs full = read(config);
  for (const char* name :
       {"first_k_dense_replace", "n_group", "topk_group", "n_shared_experts", "norm_topk_prob",
        "routed_scaling_factor", "q_lora_rank", "rms_norm_eps", "rope_theta", "hidden_act",
        "scoring_func", "num_key_value_heads", "attention_bias", "tie_word_embeddings"})
    config.erase(name);
  const ModelArgs a = read(config);
  EXPECT_EQ(a.n_dense_layers, full.n_dense_layers);
  EXPECT_EQ(a.n_expert_groups, full.n_expert_groups);
  EXPECT_EQ(a.n_limited_groups, full.n_limited_groups);
  EXPECT_EQ(a.moe.num_shared_experts, full.moe.num_shared_experts);
  EXPECT_EQ(a.moe.route_norm, full.moe.route_norm);
  EXPECT_EQ(a.moe.route_scale, full.moe.route_scale);
  EXPECT_EQ(a.q_lora_rank, full.q_lora_rank);
  EXPECT_EQ(a.norm_eps, full.norm_eps);
  EXPECT_EQ(a.rope_theta, full.rope_theta);
  config["q_lora_rank"] = nullptr;
  EXPECT_EQ(read(config).q_lora_rank, 0);
}

TEST_F(HfConfigJson, IsReadAsTransformersReadsNullsAndOldSpellings) {
  json config = deepseek_v3();
  config["norm_topk_prob"] = nullptr;  // None is false
  EXPECT_FALSE(read(config).moe.route_norm);
  config["rope_scaling"].erase("original_max_position_embeddings");
  config["original_max_position_embeddings"] = 2048;
  config["rope_scaling"]["beta_fast"] = 0;
  EXPECT_EQ(read(config).original_seq_len, 2048);
  EXPECT_EQ(read(config).beta_fast, 32);
  config["num_hidden_layers"] = 2;  // of which three are dense
  EXPECT_EQ(read(config).n_dense_layers, 2);
}

TEST_F(HfConfigJson, TakesTheFirstOfSeveralEndOfTextIds) {
  json config = deepseek_v3();
  config["eos_token_id"] = {7, 8};
  EXPECT_EQ(read(config).eos_id, 7);
  config.erase("eos_token_id");
  EXPECT_EQ(read(config).eos_id, -1);
}

TEST_F(HfConfigJson, OfAModelThatIsNotSupportedIsRefusedByName) {
  const std::vector<std::tuple<std::string, json, std::string>> cases = {
      {"attention_bias", true,
       ": attention_bias = true is not supported: projections have no bias"},
      {"rope_interleave", nullptr,
       ": rope_interleave = null is not supported: rotary pairs are adjacent"},
      {"attention_dropout", 0.5,
       ": attention_dropout = 0.5 is not supported: attention has no dropout"},
      {"hidden_size", -64, ": hidden_size = -64: it must be at least 1"},
      {"rms_norm_eps", 0.0, ": rms_norm_eps = 0.0: it must be greater than 0"},
      {"first_k_dense_replace", -1, ": first_k_dense_replace = -1: it must be 0 or more"},
      {"rope_interleave", false,
       ": rope_interleave = false is not supported: rotary pairs are adjacent"},
      {"moe_layer_freq", 2,
       ": moe_layer_freq = 2 is not supported: every block after first_k_dense_replace has "
       "experts"},
      {"num_key_value_heads", 8,
       ": num_key_value_heads = 8 is not supported: latent attention has as many as "
       "num_attention_heads"},
      {"tie_word_embeddings", true,
       ": tie_word_embeddings = true is not supported: embedding and head are separate"},
      {"hidden_act", "gelu", ": hidden_act = \"gelu\" is not supported: it must be silu"},
      {"topk_method", "greedy", ": topk_method = \"greedy\" is not supported: it must be noaux_tc"},
      {"scoring_func", "tanh", ": scoring_func = \"tanh\": it must be sigmoid or softmax"},
      {"qk_head_dim", 128,
       ": qk_head_dim = 128, but qk_nope_head_dim + qk_rope_head_dim = 128 + 64 = 192"},
      {"n_routed_experts", 250, ": n_routed_experts = 250 do not divide into n_group = 8 groups"},
      {"topk_group", 9, ": topk_group = 9 of n_group = 8: it must be between 1 and that"},
      {"num_experts_per_tok", 129,
       ": num_experts_per_tok = 129, but topk_group = 4 groups of 32 experts leave only 128 to "
       "choose from"},
      {"hidden_size", "big", ": hidden_size = \"big\": it must be an integer"},
      {"hidden_size", nullptr, ": hidden_size is missing; a DeepSeek-V3 model needs it"},
      {"rope_scaling",
       {{"type", "linear"}, {"factor", 2}},
       ": rope_scaling has type linear: only yarn and default are supported"},
      {"rope_scaling",
       {{"type", "yarn"}},
       ": rope_scaling.factor is missing; a DeepSeek-V3 model needs it"},
      {"rope_scaling",
       {{"type", "yarn"}, {"factor", 40}, {"attention_factor", 1.5}},
       ": rope_scaling.attention_factor = 1.5 is not supported: it follows from factor and the two "
       "mscales"},
      {"eos_token_id", "end",
       ": eos_token_id = \"end\": it must be an integer or a list of "
       "integers"},
  };
  for (const auto& [name, value, expected] : cases) {
    json config = deepseek_v3();
    config[name] = value;
    EXPECT_EQ(error(config), expected) << name;
  }
  json other = deepseek_v3();
  other["model_type"] = "llama";
  other.erase("architectures");
  EXPECT_EQ(error(other), ": model_type = llama is not supported: it must be deepseek_v3");
  other["architectures"] = {"DeepseekV3ForCausalLM"};  // others' models of this architecture
  EXPECT_EQ(error(other), "no error");
}

TEST_F(HfConfigJson, WithSoftmaxScoresNeedsTorchTitansFamily) {
  json config = deepseek_v3();
  config["scoring_func"] = "softmax";
  JobConfig c;
  c.model.hf_config = folder_.write("config.json", config.dump());
  EXPECT_THAT(message([&] { resolve_model_args(c); }), HasSubstr("sigmoid scores only"));
  c.numerics.family = NumericsFamily::torchtitan;
  EXPECT_EQ(resolve_model_args(c).moe.score_func, ScoreFunction::softmax);
}

TEST(Resolve, OverridesComeOverTheFlavorOrTheFile) {
  JobConfig c;
  c.model.flavor = "671B";
  c.training.seq_len = 512;
  c.model_overrides.n_layers = 5;
  c.model_overrides.num_experts = 16;
  c.model_overrides.score_func = ScoreFunction::softmax;
  c.model_overrides.route_norm = false;
  c.model_overrides.mscale = 0.5;
  c.training.debug_moe_force_load_balance = true;
  ModelArgs a = resolve_model_args(c);
  EXPECT_EQ(a.n_layers, 5);
  EXPECT_EQ(a.dim, 7168);
  EXPECT_EQ(a.moe.num_experts, 16);
  EXPECT_EQ(a.moe.score_func, ScoreFunction::softmax);
  EXPECT_FALSE(a.moe.route_norm);
  EXPECT_EQ(a.mscale, 0.5);
  EXPECT_TRUE(a.moe.force_load_balance);
  EXPECT_EQ(a.max_seq_len, 512);

  c.model.torchtitan_args = golden("torchtitan_debug/v3_small/step/torchtitan_args.json");
  a = resolve_model_args(c);
  EXPECT_EQ(a.dim, 64);
  EXPECT_EQ(a.n_layers, 5);
  EXPECT_EQ(a.max_seq_len, 512);

  c.model_overrides.top_k = 17;
  EXPECT_THAT(message([&] { resolve_model_args(c); }), HasSubstr("top_k = 17 of num_experts = 16"));
}

TEST(Resolve, TheMaskFollowsFlexAttentionUnlessItIsNamed) {
  JobConfig c;
  c.model.flavor = "671B";
  EXPECT_TRUE(resolve_model_args(c).block_causal());
  c.model_overrides.use_flex_attn = false;
  EXPECT_FALSE(resolve_model_args(c).block_causal());
  c.model_overrides = {};
  c.model_overrides.attn_mask_type = MaskType::causal;
  EXPECT_FALSE(resolve_model_args(c).block_causal());
  c.model.flavor = "debugmodel";
  c.model_overrides.attn_mask_type = MaskType::block_causal;
  EXPECT_TRUE(resolve_model_args(c).block_causal());
}

TEST(Resolve, TheFamilyIsTheFilesUnlessItIsSet) {
  JobConfig c;
  EXPECT_EQ(resolve_model_args(c).numerics.family, NumericsFamily::torchtitan);
  c.model.hf_config = golden("hf_tiny/v3/config.json");
  ModelArgs a = resolve_model_args(c);
  EXPECT_EQ(a.numerics.family, NumericsFamily::huggingface);
  EXPECT_EQ(a.final_norm_eps(), 1e-6);
  c.model_overrides.norm_eps = 1e-4;
  EXPECT_EQ(resolve_model_args(c).final_norm_eps(), 1e-4);
  c.numerics.family = NumericsFamily::torchtitan;
  a = resolve_model_args(c);
  EXPECT_EQ(a.numerics.family, NumericsFamily::torchtitan);
  EXPECT_EQ(a.final_norm_eps(), 1.1920929e-07);
  EXPECT_EQ(a.norm_eps, 1e-4);
}

// The model of a file has YaRN or not; TorchTitan's family decides by length, but for a model
// without it nothing changes at any length.
TEST(Resolve, AModelWithoutYarnHasNoneInTorchTitansFamilyEither) {
  JobConfig c;
  c.model.hf_config = golden("hf_tiny/no_yarn/config.json");
  c.training.seq_len = 8192;
  const RopeParameters hf = rope_parameters(resolve_model_args(c));
  c.numerics.family = NumericsFamily::torchtitan;
  const RopeParameters tt = rope_parameters(resolve_model_args(c));
  EXPECT_DOUBLE_EQ(hf.softmax_scale, tt.softmax_scale);
  const std::vector<float> a = rope_frequencies(hf, 8), b = rope_frequencies(tt, 8);
  for (size_t i = 0; i < a.size(); ++i) EXPECT_FLOAT_EQ(a[i], b[i]);
}

TEST(Resolve, AFlavorInHuggingFacesFamilyIsTheReleasedModel) {
  const test::TemporaryFolder folder;
  JobConfig c;
  c.model.flavor = "671B";
  c.numerics.family = NumericsFamily::huggingface;
  const RopeParameters flavor = rope_parameters(resolve_model_args(c));
  const RopeParameters released =
      rope_parameters(model_args_from_hf_config(folder.write("config.json", deepseek_v3().dump())));
  EXPECT_TRUE(flavor.yarn);
  EXPECT_EQ(flavor.softmax_scale, released.softmax_scale);
  EXPECT_EQ(flavor.amplitude, released.amplitude);
  EXPECT_EQ(rope_frequencies(flavor, 64), rope_frequencies(released, 64));
}

TEST(Resolve, WarnsOfASequenceBeyondTheModelsOwn) {
  JobConfig c;
  const log::Capture capture;
  resolve_model_args(c);
  EXPECT_EQ(capture.text(), "");
  c.training.seq_len = 32768;
  resolve_model_args(c);
  EXPECT_THAT(capture.text(), HasSubstr("Sequence length 32768 exceeds original maximum 16384."));
}

}  // namespace
}  // namespace nereus
