#include "recipe/cluster_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "test/test_tensor.h"

namespace nereus::recipe {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::Pair;

class ClusterConfigFile : public testing::Test {
 protected:
  const std::string folder_ = testing::TempDir() + "/cluster_config_" +
                              testing::UnitTest::GetInstance()->current_test_info()->name();
  const std::string path_ = folder_ + "/cluster_config.yaml";

  void SetUp() override { std::filesystem::create_directories(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  ClusterConfig read(const std::string& text) {
    std::ofstream(path_) << text;
    return read_cluster_config(path_);
  }
  std::string refusal(const std::string& text) {
    try {
      read(text);
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), Fault::kConfig);
      const std::string what = e.what();
      EXPECT_TRUE(what.starts_with(path_ + ":"));
      return what.substr(path_.size() + 1);
    }
    return "no error";
  }
};

constexpr const char* kHead =
    "schema_version: 2\nllmb_repo: /repo\nllmb_install: /lustre/llmb\ngpu_type: h100\n";

TEST_F(ClusterConfigFile, WhatIsWrittenIsReadAgain) {
  ClusterConfig config;
  config.llmb_repo = "/opt/nereus";
  config.llmb_install = "/lustre/a b: c";
  config.gpu_type = "gb200";
  config.cluster_name = "north";
  config.node_architecture = "aarch64";
  config.gpu_memory_gib = {{"gb200", 184.5}, {"h100", 93.1}};
  config.environment = {{"NOTE", "x\"y"}, {"NCCL_IB_QPS", "4"}, {"FLAG", "true"}};
  config.slurm = {{"account", "research"}};
  config.gpu = {{"partition", "batch"}, {"gres", "4"}};
  config.cpu = ClusterConfig::SlurmKeys{{"partition", "cpu"}, {"account", std::nullopt}};
  config.installed = {"pretrain_deepseek-v3-torchtitan"};
  config.workloads["pretrain_deepseek-v3-torchtitan"] = {
      .venv_path = "/venv", .venv_type = "uv", .environment = {{"A", "b"}}};
  write_cluster_config(config, path_);
  const ClusterConfig again = read_cluster_config(path_);
  EXPECT_EQ(again.llmb_repo, config.llmb_repo);
  EXPECT_EQ(again.llmb_install, config.llmb_install);
  EXPECT_EQ(again.gpu_type, config.gpu_type);
  EXPECT_EQ(again.cluster_name, config.cluster_name);
  EXPECT_EQ(again.gpu_memory_gib, config.gpu_memory_gib);
  EXPECT_EQ(again.node_architecture, config.node_architecture);
  EXPECT_EQ(again.environment, config.environment);
  EXPECT_EQ(again.slurm, config.slurm);
  EXPECT_EQ(again.gpu, config.gpu);
  EXPECT_EQ(again.cpu, config.cpu);
  EXPECT_EQ(again.installed, config.installed);
  const ClusterConfig::Workload& workload = again.workloads.at("pretrain_deepseek-v3-torchtitan");
  EXPECT_EQ(workload.venv_path, "/venv");
  EXPECT_EQ(workload.venv_type, "uv");
  EXPECT_THAT(workload.environment, ElementsAre(Pair("A", "b")));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
}

TEST_F(ClusterConfigFile, WhatIsNotKnownIsWrittenAgain) {
  ClusterConfig config = read(std::string(kHead) +
                              "site: {contact: [me, you], quoted: \"8\", bare: 8, none: }\n"
                              "install: {node_architecture: x86_64, method: slurm}\n"
                              "slurm: {qos: high, gpu: {partition: batch}}\n"
                              "workloads:\n"
                              "  installed: [pretrain_grok1]\n"
                              "  order: \"true\"\n"
                              "  config: {pretrain_grok1: {venv_path: /v, image: a/b}}\n");
  for (int i = 0; i < 2; ++i) {
    write_cluster_config(config, path_);
    EXPECT_EQ(test::read_file(path_),
              "schema_version: 2\n"
              "llmb_repo: \"/repo\"\n"
              "llmb_install: \"/lustre/llmb\"\n"
              "gpu_type: \"h100\"\n"
              "install:\n  node_architecture: \"x86_64\"\n  method: slurm\n"
              "environment:\n  {}\n"
              "slurm:\n  qos: \"high\"\n  gpu:\n    partition: \"batch\"\n"
              "workloads:\n"
              "  installed:\n    - pretrain_grok1\n"
              "  config:\n    pretrain_grok1:\n      venv_path: \"/v\"\n"
              "      environment:\n        {}\n      image: a/b\n"
              "  order: \"true\"\n"
              "site:\n  contact:\n    - me\n    - you\n  quoted: \"8\"\n  bare: 8\n  none: ~\n");
    config = read_cluster_config(path_);
  }
  // Schema 1 has some of it in its launcher.
  config = read(
      "launcher:\n  llmb_repo: /repo\n  llmb_install: /llmb\n  gpu_type: b200\n  theme: dark\n"
      "slurm: {gpu_partition: batch}\nsite: here\n");
  write_cluster_config(config, path_);
  EXPECT_THAT(test::read_file(path_), testing::EndsWith("\nsite: here\ntheme: dark\n"));
}

TEST_F(ClusterConfigFile, AHubsTokenIsNotWrittenWhereverItStands) {
  const std::string with_token =
      std::string(kHead) +
      "environment: {HF_TOKEN: hf_secret1, HF_HOME: /hf}\n"
      "site: {more: [{HUGGING_FACE_HUB_TOKEN: hf_secret2}], kept: 1}\n"
      "slurm: {gpu: {partition: batch}}\n"
      "workloads: {config: {a: {environment: {HF_TOKEN: hf_secret3, A: b}}}}\n";
  const ClusterConfig config = read(with_token);
  EXPECT_EQ(config.environment.at("HF_TOKEN"), "hf_secret1");  // jobs get it as before
  EXPECT_EQ(config.hub_token, "hf_secret1");
  write_cluster_config(config, path_);
  const std::string text = test::read_file(path_);
  EXPECT_THAT(text, Not(HasSubstr("hf_secret")));
  EXPECT_THAT(text, AllOf(HasSubstr("HF_HOME"), HasSubstr("kept: 1"), HasSubstr("A: \"b\"")));
  EXPECT_EQ(read_cluster_config(path_).hub_token, "");
  EXPECT_EQ(
      read(std::string(kHead) + "slurm: {gpu: {partition: b}}\nsite: [{HF_TOKEN: hf_secret4}]\n")
          .hub_token,
      "hf_secret4");
}

TEST_F(ClusterConfigFile, WhatIsSecretIsItsOwnersAlone) {
  const auto mode = [&](const std::string& more) {
    write_cluster_config(read(std::string(kHead) + "slurm: {gpu: {partition: b}}\n" + more), path_);
    return static_cast<int>(std::filesystem::status(path_).permissions());
  };
  const mode_t before = ::umask(022);
  EXPECT_EQ(mode(""), 0644);
  EXPECT_EQ(mode("environment: {HF_TOKEN: hf_secret, A: 'docker://a/b@sha256:c'}\n"), 0644);
  EXPECT_EQ(mode("environment: {WANDB_API_KEY: x}\n"), 0600);
  EXPECT_EQ(mode("environment: {https_proxy: 'http://me:word@proxy:3128'}\n"), 0600);
  EXPECT_EQ(mode("workloads: {config: {a: {environment: {DB_PASSWORD: x}}}}\n"), 0600);
  EXPECT_EQ(mode("site: [{api_key: x}]\n"), 0600);
  ::umask(before);
}

TEST_F(ClusterConfigFile, SlurmsBlocksBecomeItsVariables) {
  const ClusterConfig config = read(std::string(kHead) +
                                    "slurm:\n  account: a\n  qos: high\n"
                                    "  gpu: {partition: batch, gres: 8, time-limit: '1:00'}\n"
                                    "  cpu: {partition: cpu, qos: null}\n");
  EXPECT_THAT(config.gpu_variables(),
              ElementsAre(Pair("SBATCH_ACCOUNT", "a"), Pair("SBATCH_GPUS_PER_NODE", "8"),
                          Pair("SBATCH_PARTITION", "batch"), Pair("SBATCH_QOS", "high"),
                          Pair("SBATCH_TIME_LIMIT", "1:00")));
  EXPECT_THAT(config.cpu_variables(),
              ElementsAre(Pair("SBATCH_ACCOUNT", "a"), Pair("SBATCH_PARTITION", "cpu")));
  EXPECT_EQ(config.node_architecture, "x86_64");
}

TEST_F(ClusterConfigFile, TheFirstSchemaIsReadToo) {
  const ClusterConfig config = read(
      "launcher:\n  llmb_repo: /repo\n  llmb_install: /llmb\n  gpu_type: b200\n"
      "slurm: {account: a, gpu_partition: batch, gpu_gres: 8, cpu_partition: cpu, cpu_gres: }\n");
  EXPECT_EQ(config.gpu_type, "b200");
  EXPECT_EQ(config.llmb_install, "/llmb");
  EXPECT_THAT(config.gpu_variables(),
              ElementsAre(Pair("SBATCH_ACCOUNT", "a"), Pair("SBATCH_GPUS_PER_NODE", "8"),
                          Pair("SBATCH_PARTITION", "batch")));
  EXPECT_THAT(config.cpu_variables(),
              ElementsAre(Pair("SBATCH_ACCOUNT", "a"), Pair("SBATCH_PARTITION", "cpu")));
}

TEST_F(ClusterConfigFile, AMalformedFileIsToldWithItsLine) {
  const std::string head = kHead;
  EXPECT_EQ(refusal("- a\n"),
            "1: the cluster configuration must be a map of keys (\"schema_version: 2\" and so "
            "on).");
  EXPECT_EQ(refusal("schema_version: 2\nllmb_repo: [\n"),
            "3: the cluster configuration is no YAML: end of sequence flow not found.");
  EXPECT_EQ(refusal(std::string(kHead) + "gpu_memory_gib: {h100: 80 GB}\n"),
            "5: gpu_memory_gib of h100 is \"80 GB\", which is no number of GiB from 1 to 4096 (an "
            "H100 of 80 GB offers 79.1).");
  EXPECT_EQ(refusal("schema_version: 3\n"), "1: schema_version 3 is not known: 1 and 2 are.");
  EXPECT_EQ(refusal("llmb_repo: /repo\n"),
            "1: Missing required 'launcher' section of schema 1; a file with llmb_repo, "
            "llmb_install and gpu_type at its top level needs \"schema_version: 2\".");
  EXPECT_EQ(refusal("schema_version: 2\nlauncher: {}\n"),
            "2: schema 2 has no 'launcher' section: move its keys to the top level.");
  EXPECT_EQ(refusal("schema_version: 2\nllmb_repo: /r\nllmb_install: ''\n"),
            "3: Missing required 'llmb_install' field.");
  EXPECT_EQ(refusal(head),
            "1: Missing required 'slurm' section: slurm.gpu.partition is the least.");
  EXPECT_EQ(refusal(head + "slurm:\n  gpu: {gres: 8}\n"),
            "6: no partition for jobs on GPUs: set slurm.gpu.partition.");
  EXPECT_EQ(refusal(head + "slurm:\n  gpu: batch\n"), "6: slurm.gpu must be a map of keys.");
  EXPECT_EQ(refusal(head + "slurm:\n  gpu_gres: 8\n  gpu: {partition: batch}\n"),
            "6: slurm.gpu_gres cannot be combined with the blocks slurm.gpu and slurm.cpu: move it "
            "into its block.");
  EXPECT_EQ(refusal(head + "slurm:\n  gpu: {partition: [a, b]}\n"),
            "6: slurm.gpu.partition must be one value. Only slurm.gpu and slurm.cpu are blocks.");
  EXPECT_EQ(refusal(head + "slurm: {gpu: {partition: b}}\nworkloads:\n  installed: {a: b}\n"),
            "7: workloads.installed must be a list.");
  EXPECT_EQ(refusal(head + "environment:\n  A: [1]\nslurm: {gpu: {partition: b}}\n"),
            "6: environment.A must be one value, not a list or a map.");
  EXPECT_EQ(refusal(head + "gpu_type: b200\n"), "5: gpu_type is there twice: remove one.");
}

TEST_F(ClusterConfigFile, AFileThatIsNotThereIsNamed) {
  EXPECT_THAT([&] { read_cluster_config(path_); },
              testing::ThrowsMessage<Error>(
                  path_ + ": the cluster configuration cannot be read: No such file or "
                          "directory."));
  EXPECT_THAT([&] { find_cluster_config("/nowhere"); },
              testing::ThrowsMessage<Error>(
                  "Cluster configuration file 'cluster_config.yaml' not found. Looked in the "
                  "current directory and under the path specified by the LLMB_INSTALL environment "
                  "variable (/nowhere). `nereus setup` writes it."));
  EXPECT_THAT([&] { write_cluster_config({}, "/nowhere/cluster_config.yaml"); },
              testing::ThrowsMessage<Error>(
                  "/nowhere/cluster_config.yaml: cannot be written: No such file or directory. "
                  "Its folder must exist and be writable."));
}

}  // namespace
}  // namespace nereus::recipe
