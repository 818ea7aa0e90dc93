// For tests: an installation in a temporary folder, whose repository is this one, and programs of
// Slurm's names that answer as a test says.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>

#include "base/error.h"
#include "recipe/cluster_config.h"
#include "recipe/command_output.h"
#include "recipe/metadata.h"
#include "test/test_tensor.h"

namespace nereus::recipe {

inline constexpr const char* kKey = "pretrain_deepseek-v3-torchtitan";

class Installation {
 public:
  explicit Installation(const std::string& gpu_type = "h100") {
    const char* source = std::getenv("NEREUS_SOURCE_DIR");
    config.llmb_repo = source ? source : ".";
    config.llmb_install = folder.path() + "/llmb";
    config.gpu_type = gpu_type;
    config.cluster_name = "north";
    config.slurm["account"] = "research";
    config.gpu = {{"partition", "batch"}, {"gres", gpu_type == "gb200" ? "4" : "8"}};
    config.installed = {kKey};
    workloads = read_workloads(config.llmb_repo);
    environment = {{"PATH", folder.file("bin") + ":/usr/bin:/bin"}};
    std::filesystem::create_directories(folder.file("bin"));
    std::filesystem::create_directories(config.llmb_install);
    for (const char* name : {"sbatch", "sacct", "scontrol", "squeue"}) program(name, "exit 1");
  }

  // A script of that name, first in PATH.
  void program(const std::string& name, const std::string& body) const {
    namespace fs = std::filesystem;
    fs::permissions(folder.write("bin/" + name, "#!/bin/bash\n" + body + "\n"),
                    fs::perms::owner_all);
  }
  std::string run_folder(const std::string& time, int64_t gpus = 512) const {
    const std::string path = config.llmb_install + "/workloads/" + kKey + "/experiments/" + kKey +
                             "_671b_bf16_gpus" + std::to_string(gpus) + "/" + time;
    std::filesystem::create_directories(path);
    return path;
  }

  test::TemporaryFolder folder;
  ClusterConfig config;
  Workloads workloads;
  Variables environment;
};

// The text of the Error{kConfig} that `body` throws.
inline std::string refusal(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::kConfig) << e.what();
    return e.what();
  }
  return "no error";
}

}  // namespace nereus::recipe
