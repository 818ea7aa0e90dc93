#include "checkpoint/hf_names.h"

#include <gtest/gtest.h>

#include <set>

#include "base/error.h"
#include "checkpoint/hf_model_test.h"
#include "tensor/safetensors.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

TEST(HfNames, TheNamesOfAModelAreThoseOfTheReferencesFile) {
  const SafetensorsFile file =
      SafetensorsFile::open(test::source_path("tests/golden/hf_tiny/v3/model.safetensors"));
  std::set<std::string> theirs, ours;
  for (const SafetensorsEntry& e : file.entries()) theirs.insert(e.name);
  test::HostModel model(test::hf_tiny_v3());
  for (const NamedView& v : model.views())
    for (const std::string& name : hf_names_of(v.name, v.view))
      EXPECT_TRUE(ours.insert(name).second) << name;
  EXPECT_EQ(ours, theirs);
}

TEST(HfNames, NamesGoBothWaysForEveryLayerAndExpert) {
  ModelArgs without_lora = test::hf_tiny_v3();
  without_lora.q_lora_rank = 0;
  for (const ModelArgs& args : {test::hf_tiny_v3(), without_lora}) {
    test::HostModel model(args);
    for (const NamedView& v : model.views()) {
      const std::vector<std::string> names = hf_names_of(v.name, v.view);
      for (size_t i = 0; i < names.size(); ++i) {
        const auto back = logical_name(names[i]);
        ASSERT_TRUE(back.has_value()) << names[i];
        EXPECT_EQ(back->name, v.name);
        EXPECT_EQ(back->expert, has_experts(v.name) ? static_cast<int64_t>(i) : -1);
      }
    }
  }
  EXPECT_EQ(hf_name("layers.60.moe.experts.w3", 255),
            "model.layers.60.mlp.experts.255.up_proj.weight");
  EXPECT_EQ(hf_name("layers.0.attention.wq.weight"), "model.layers.0.self_attn.q_proj.weight");
}

TEST(HfNames, WhatIsNoParameterHasNoName) {
  for (const char* name :
       {"", "model.layers.61.eh_proj.weight", "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.-1.input_layernorm.weight", "model.layers.01.input_layernorm.weight",
        "model.layers.1.input_layernorm.weight2",
        "model.layers.99999999999999999999.mlp.gate.weight",
        "model.layers.1.mlp.experts.gate_proj.weight"})
    EXPECT_FALSE(logical_name(name).has_value()) << name;
  EXPECT_THROW(hf_name("layers.1.feed_forward.gate_up"), Error);
}

}  // namespace
}  // namespace nereus
