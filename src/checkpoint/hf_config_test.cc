#include "checkpoint/hf_config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "checkpoint/hf_model_test.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using Json = nlohmann::json;

Json golden(const std::string& name) {
  return Json::parse(test::read_file(test::source_path("tests/golden/" + name + "/config.json")));
}

// Every key of the reference's file but those that say nothing of the model.
void expect_same_model(const Json& ours, const Json& theirs) {
  for (const auto& [key, value] : theirs.items()) {
    if (key == "bos_token_id" || key == "use_cache") continue;
    ASSERT_TRUE(ours.contains(key)) << key;
    EXPECT_EQ(ours[key], value) << key;
  }
}

TEST(HfConfig, AHuggingFaceModelIsWrittenAsTheReferenceHasIt) {
  ModelArgs args = test::hf_tiny_v3();
  args.max_seq_len = 48;
  expect_same_model(Json::parse(hf_config_json(args)), golden("hf_tiny/v3"));
  args.hf_mscale_given = false;
  args.hf_mscale_all_dim = 0;
  args.eos_id = -1;
  const Json json = Json::parse(hf_config_json(args, DType::bf16));
  EXPECT_FALSE(json["rope_scaling"].contains("mscale"));
  EXPECT_FALSE(json["rope_scaling"].contains("mscale_all_dim"));
  EXPECT_FALSE(json.contains("eos_token_id"));
  EXPECT_EQ(json["torch_dtype"], "bfloat16");
  args.hf_yarn = false;
  args.q_lora_rank = 0;
  EXPECT_TRUE(Json::parse(hf_config_json(args))["rope_scaling"].is_null());
  EXPECT_TRUE(Json::parse(hf_config_json(args))["q_lora_rank"].is_null());
  // Sequences of a run that are shorter than the model can take, and longer.
  args.original_seq_len = 4096;
  EXPECT_EQ(Json::parse(hf_config_json(args))["max_position_embeddings"], 4096);
  args.max_seq_len = 8192;
  EXPECT_EQ(Json::parse(hf_config_json(args))["max_position_embeddings"], 8192);
}

ModelArgs torchtitan_small() {
  ModelArgs a;
  a.max_seq_len = 64;
  a.vocab_size = 256;
  a.dim = 64;
  a.inter_dim = 128;
  a.moe_inter_dim = 32;
  a.n_layers = 3;
  a.n_heads = 4;
  a.moe.top_k = 3;
  a.kv_lora_rank = 32;
  a.qk_nope_head_dim = 16;
  a.qk_rope_head_dim = 8;
  a.v_head_dim = 16;
  a.n_expert_groups = 8;  // declared and unused by TorchTitan
  a.n_limited_groups = 4;
  a.eos_id = 1;
  return a;
}

TEST(HfConfig, ATorchTitanModelIsWrittenAsTheReferenceReadsIt) {
  ModelArgs debug = torchtitan_small();
  debug.moe.num_shared_experts = 2;
  debug.moe.score_func = ScoreFunction::softmax;
  debug.mscale = 0.7;
  expect_same_model(Json::parse(hf_config_json(debug)),
                    golden("torchtitan_debug/debug_small/step"));
  ModelArgs v3 = torchtitan_small();
  v3.q_lora_rank = 32;
  v3.moe.route_norm = true;
  v3.moe.route_scale = 2.5;
  expect_same_model(Json::parse(hf_config_json(v3)), golden("torchtitan_debug/v3_small/step"));
  v3.qk_rope_head_dim = 16;
  v3.original_seq_len = 32;
  v3.rope_factor = 8;
  expect_same_model(Json::parse(hf_config_json(v3)),
                    golden("torchtitan_debug/v3_small_yarn_doc/step"));
}

TEST(HfConfig, WhatTheConfigurationReadsIsWrittenBackAsItWas) {
  for (const char* name :
       {"hf_tiny/v3", "hf_tiny/no_q_lora", "hf_tiny/no_yarn", "torchtitan_debug/v3_small/step",
        "torchtitan_debug/v3_small_yarn_doc/step"}) {
    SCOPED_TRACE(name);
    const ModelArgs args = model_args_from_hf_config(
        test::source_path(std::string("tests/golden/") + name + "/config.json"));
    Json theirs = golden(name);
    // Not kept by a run, whose sequences may be shorter: YaRN's own reach is written.
    if (args.hf_yarn)
      theirs["max_position_embeddings"] =
          static_cast<double>(args.original_seq_len) * args.rope_factor;
    expect_same_model(Json::parse(hf_config_json(args)), theirs);
  }
}

// TorchTitan's YaRN, on or off by the sequence's length, is Hugging Face's on or off by the file.
TEST(HfConfig, ATorchTitanModelIsReadWithTheSameRotaryTablesAndScale) {
  const test::TemporaryFolder folder;
  for (const int64_t sequence : {4096, 8192}) {
    ModelArgs args = model_args_of_flavor("671B");
    args.mscale = 0.70;
    args.max_seq_len = sequence;
    const ModelArgs back =
        model_args_from_hf_config(folder.write("config.json", hf_config_json(args)));
    const RopeParameters a = rope_parameters(args), b = rope_parameters(back);
    EXPECT_EQ(a.yarn, sequence > 4096);
    EXPECT_EQ(a.yarn, b.yarn);
    EXPECT_DOUBLE_EQ(a.softmax_scale, b.softmax_scale);
    EXPECT_DOUBLE_EQ(a.amplitude, b.amplitude);
    EXPECT_EQ(rope_frequencies(a, args.qk_rope_head_dim),
              rope_frequencies(b, args.qk_rope_head_dim));
  }
}

}  // namespace
}  // namespace nereus
