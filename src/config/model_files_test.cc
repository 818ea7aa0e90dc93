// What config.json of another model is told.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "config/model_args.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using nlohmann::json;
using testing::HasSubstr;

// Behind the file's path.
std::string error(const std::string& text) {
  const test::TemporaryFolder folder;
  const std::string path = folder.write("config.json", text);
  try {
    model_args_from_hf_config(path);
  } catch (const Error& e) {
    EXPECT_EQ(e.exit_code(), 2);
    const std::string what = e.what();
    EXPECT_EQ(what.find(path), 0u) << what;
    return what.substr(path.size());
  }
  return "no error";
}

TEST(HfConfigOfAnotherModel, NamesTheFlavorOfTheSameSizes) {
  json lite = {{"model_type", "deepseek_v2"},
               {"hidden_size", 2048},
               {"num_hidden_layers", 27},
               {"n_routed_experts", 64}};
  EXPECT_EQ(error(lite.dump()),
            ": model_type = deepseek_v2 is not supported: it must be deepseek_v3.\n  Its sizes are "
            "those of the flavor 16B (DeepSeek-V2-Lite): model.flavor = \"16B\" in place of "
            "model.hf_config trains these, with TorchTitan's arithmetic");
  json v2 = lite;
  v2.update({{"hidden_size", 5120}, {"num_hidden_layers", 60}, {"n_routed_experts", 160}});
  EXPECT_THAT(error(v2.dump()), HasSubstr("the flavor 236B (DeepSeek-V2)"));
  v2["hidden_size"] = 1;
  EXPECT_THAT(error(v2.dump()),
              HasSubstr("DeepSeek-V2-Lite's and DeepSeek-V2's sizes are the flavors 16B and 236B "
                        "(model.flavor); [model_overrides] sets others"));
}

TEST(HfConfigOfAnotherModel, OfSeveralPartsNamesTheOneThatCanBeTrained) {
  for (const char* part : {"text_config", "language_config", "llm_config"}) {
    const json config = {{"model_type", "kimi_vl"},
                         {"vision_config", json::object()},
                         {part, {{"model_type", "deepseek_v3"}}}};
    EXPECT_EQ(error(config.dump()),
              std::string(": it describes a model of several parts (model_type: \"kimi_vl\"), "
                          "whose language model is in ") +
                  part +
                  " (model_type: \"deepseek_v3\"); only a language model can be trained.\n  Write "
                  "that part to a file of its own, `jq ." +
                  part +
                  " config.json > language.json`, and name the new file in model.hf_config; names "
                  "of weights may begin with language_model.");
  }
}

TEST(HfConfigOfAnotherModel, APointerOfGitLfsIsNamed) {
  EXPECT_EQ(error("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"),
            ": this is a Git LFS pointer, not the file itself; fetch it with `git lfs pull` or "
            "download it again");
}

}  // namespace
}  // namespace nereus
