#include "recipe/artifacts.h"

#include <fnmatch.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace nereus::recipe {
namespace {

using testing::ElementsAre;

TEST(Artifacts, GoWhereTheRecipeLooks) {
  EXPECT_EQ(model_folder({{"LLMB_INSTALL", "/l"}}, kModelRepository),
            "/l/workloads/pretrain_deepseek-v3-torchtitan/torchtitan/assets/hf/DeepSeek-V3.1-Base");
  EXPECT_EQ(model_folder({{"LLMB_INSTALL", "/l"}, {"LLMB_WORKLOAD", "/w"}}, "a/b"),
            "/w/torchtitan/assets/hf/b");
  EXPECT_EQ(model_folder({}, "a/b"), "./assets/hf/b");
  EXPECT_EQ(dataset_folder({{"LLMB_INSTALL", "/l"}}), "/l/datasets/c4");
  EXPECT_EQ(dataset_folder({}), "./datasets/c4");
}

TEST(Artifacts, ATokenizerIsItsFilesWithoutTheWeights) {
  const auto r = tokenizer_request("a/b", "/f");
  const auto wanted = [&](const char* path) {
    for (const std::string& p : r.include)
      if (fnmatch(p.c_str(), path, 0) == 0) return true;
    return false;
  };
  for (const char* path : {"tokenizer.json", "tokenizer_config.json", "tokenizer.model",
                           "config.json", "special_tokens_map.json", "vocab.json", "merges.txt"})
    EXPECT_TRUE(wanted(path)) << path;
  for (const char* path : {"model-00001-of-00163.safetensors", "modeling_deepseek.py",
                           "model.safetensors.index.json", "assets/config.json"})
    EXPECT_FALSE(wanted(path)) << path;
}

TEST(Artifacts, ShardsOfC4AreNamed) {
  const auto r = dataset_request(2, "/f");
  EXPECT_EQ(r.repository.kind, hub::Repository::Kind::dataset);
  EXPECT_THAT(r.include, ElementsAre("en/c4-validation.00000-of-00008.json.gz",
                                     "en/c4-train.00000-of-01024.json.gz",
                                     "en/c4-train.00001-of-01024.json.gz"));
  EXPECT_THAT(dataset_request(std::nullopt, "/f").include, ElementsAre("en/*"));
  EXPECT_THAT([] { dataset_request(1025, "/f"); },
              testing::ThrowsMessage<Error>(
                  "1025 shards: C4's English texts have 1 to 1024 training shards"));
}

TEST(Artifacts, WorkersComeFromTheRecipesVariable) {
  EXPECT_EQ(download_workers({}), 4);
  EXPECT_EQ(download_workers({{"LLMB_HF_MAX_WORKERS", "9"}}), 9);
  EXPECT_THAT(
      [] {
        download_workers({{"LLMB_HF_MAX_WORKERS", "many"}});
      },
      testing::ThrowsMessage<Error>("LLMB_HF_MAX_WORKERS = many: it must be a whole number "
                                    "from 1 to 64 (files at once)"));
}

}  // namespace
}  // namespace nereus::recipe
