#include "recipe/metadata.h"

#include "recipe/installation_test.h"

namespace nereus::recipe {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(Metadata, TheRecipesFileSaysWhatItRunsAt) {
  const Installation there;
  const Workload& w = there.workloads.at(kKey);
  EXPECT_EQ(w.folder, there.config.llmb_repo + "/recipes/deepseek_v3");
  EXPECT_EQ(w.launcher_type, "configured_sbatch");
  EXPECT_EQ(w.launch_script, "launch.sh");
  for (const auto& [gpu, scales] :
       {std::pair<const char*, std::vector<int64_t>>{"h100", {512, 1024}},
        {"h200", {512, 1024}},
        {"b200", {256}},
        {"gb200", {256}}}) {
    const Workload::Size* size = w.size(gpu, "671b");
    ASSERT_TRUE(size) << gpu;
    ASSERT_EQ(size->dtypes.size(), 1u);
    EXPECT_EQ(size->dtypes[0].name, "bf16");
    EXPECT_EQ(size->dtypes[0].scales, scales);
    EXPECT_FALSE(size->dtypes[0].exact_scales);
  }
  EXPECT_EQ(w.gpus.size(), 4u);
  EXPECT_EQ(w.size("h100", "16b"), nullptr);
  EXPECT_EQ(w.size("a100", "671b"), nullptr);
}

TEST(Metadata, AllFormsOfDataTypesAndImagesAreRead) {
  const test::TemporaryFolder folder;
  std::filesystem::create_directories(folder.file("recipes/a"));
  folder.write("recipes/a/metadata.yaml", R"(
general: {workload: a, workload_type: finetune}
container:
  images:
    by_gpu:
      h100: ['nvcr.io#x/y:1']
      default: [{url: 'nvcr.io#x/z:2', name: z}]
run:
  launcher_type: configured_sbatch
  gpu_configs:
    h100:
      model_configs:
        - {model_size: 1t, dtypes: [fp8, bf16], scales: [16, 8], proxy_scales: [4]}
        - model_size: 70b
          exact_scales: true
          dtypes: {bf16: [8], fp8: {scales: [32], exact_scales: false, proxy_scales: [2]}}
)");
  const Workload w = read_workloads(folder.path()).at("finetune_a");
  const std::vector<Workload::Size>& sizes = w.gpus.at("h100").sizes;
  ASSERT_EQ(sizes.size(), 2u);
  EXPECT_EQ(sizes[0].name, "70b");
  EXPECT_EQ(sizes[1].name, "1t");
  EXPECT_THAT(sizes[1].dtypes[1].scales, ElementsAre(8, 16));
  EXPECT_THAT(sizes[1].dtypes[1].proxy_scales, ElementsAre(4));
  EXPECT_TRUE(sizes[0].dtypes[0].exact_scales);
  EXPECT_FALSE(sizes[0].dtypes[1].exact_scales);
  EXPECT_THAT(sizes[0].dtypes[1].proxy_scales, ElementsAre(2));
  EXPECT_THAT(w.images_for("h100"), ElementsAre("nvcr.io#x/y:1"));
  EXPECT_THAT(w.images_for("b200"), ElementsAre("nvcr.io#x/z:2"));
}

TEST(Metadata, WhatIsWrongIsToldWithItsLine) {
  const test::TemporaryFolder folder;
  const auto refused = [&](const std::string& run) {
    const std::string path =
        folder.write("metadata.yaml", "general: {workload: a, workload_type: b}\n" + run);
    const std::string text = refusal([&] { read_workloads(folder.path()); });
    EXPECT_TRUE(text.starts_with(path + ":")) << text;
    return text.substr(path.size() + 1);
  };
  EXPECT_EQ(refused("run: {gpu_configs: {h100: {}}}\n"),
            "2: run.gpu_configs.h100.model_configs must be a list.");
  EXPECT_EQ(refused("run:\n  gpu_configs:\n    h100:\n      model_configs:\n"
                    "        - {model_size: 7b, dtypes: {bf16: [many]}}\n"),
            "6: run.gpu_configs.h100.model_configs.dtypes.bf16 has \"many\": a scale is a number "
            "of GPUs.");
  EXPECT_EQ(refused("run: {gpu_configs: {h100: {model_configs: [{model_size: 7b}]}}}\n"),
            "2: run.gpu_configs.h100.model_configs has no dtypes.");
  EXPECT_EQ(refusal([] { read_workloads("/nowhere"); }),
            "/nowhere: there is no such folder, and cluster_config.yaml names it as llmb_repo. Set "
            "it to where Nereus (or NVIDIA's exemplar-performance) is.");
}

TEST(Metadata, ASizeIsTheEndOfAName) {
  using P = std::pair<std::string, std::string>;
  EXPECT_EQ(split_size("pretrain_foo_7b"), P("pretrain_foo", "7b"));
  EXPECT_EQ(split_size("pretrain_foo_1.5T"), P("pretrain_foo", "1.5t"));
  EXPECT_EQ(split_size("pretrain_foo"), P("pretrain_foo", ""));
  EXPECT_EQ(split_size("pretrain_foo_7x"), P("pretrain_foo_7x", ""));
  EXPECT_EQ(split_size("pretrain_b"), P("pretrain_b", ""));
  EXPECT_EQ(split_size("pretrain_1.b"), P("pretrain_1.b", ""));
  EXPECT_EQ(split_size("plain"), P("plain", ""));
}

TEST(Metadata, TheListShowsTheClustersGpuAndItsNote) {
  const Installation there;
  const auto list = [&](const std::string& gpu, const std::vector<std::string>& only = {}) {
    return describe_workloads(there.workloads, there.config.installed, gpu, only);
  };
  const std::string head = "Available workloads:\n" + std::string(50, '=') + "\n\n" + kKey + ":\n";
  EXPECT_EQ(list("h100"), head + "  671b:\n    Data types: bf16\n    Scales: 512, 1024\n\n");
  EXPECT_THAT(list("h200", {kKey}), HasSubstr("Note: the recipe has no H200; Nereus runs it with "
                                              "h100's settings and scales\n"));
  EXPECT_EQ(list("a100"), head + "  does not run on a100; it does on b200, gb200, h100, h200\n\n");
  EXPECT_EQ(refusal([&] { list("h100", {"pretrain_x"}); }),
            std::string("Workload 'pretrain_x' not found.\nInstalled workloads: ") + kKey);
  EXPECT_EQ(describe_workloads(there.workloads, {}, "h100", {}), "No installed workloads found.\n");
}

}  // namespace
}  // namespace nereus::recipe
