// A workload's metadata.yaml, in llmb-run's schema: what it is and at which sizes, data types and
// numbers of GPUs it runs. The parts that submitting needs; the rest is installation's.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace nereus::recipe {

struct Workload {
  struct DType {
    std::string name;
    std::vector<int64_t> scales, proxy_scales;  // numbers of GPUs, ascending
    bool exact_scales = false;                  // those alone
  };
  struct Size {
    std::string name;  // "671b"
    std::vector<DType> dtypes;
  };
  struct Gpu {
    std::vector<Size> sizes;  // ascending
    std::string note;
  };

  std::string key;     // "{workload_type}_{workload}"
  std::string folder;  // where metadata.yaml is
  std::string name, type, framework, model;
  std::string launcher_type, launch_script;
  std::map<std::string, std::vector<std::string>> images;  // by GPU type, or "default"
  std::map<std::string, Gpu> gpus;

  const Gpu* gpu(const std::string& gpu_type) const;                             // or nullptr
  const Size* size(const std::string& gpu_type, const std::string& name) const;  // or nullptr
  std::vector<std::string> images_for(const std::string& gpu_type) const;
};

using Workloads = std::map<std::string, Workload>;  // by key

// Every metadata.yaml below `repository`/recipes, or below `repository` when it has no such folder.
// Throws Error{kConfig} with the file's line.
Workloads read_workloads(const std::string& repository);

// "pretrain_foo_70b" is {"pretrain_foo", "70b"}; without a size at its end {"...", ""}.
std::pair<std::string, std::string> split_size(const std::string& name);

// What `nereus list` prints: the installed workloads that are asked for (all when `only` is empty),
// with what they run at on `gpu_type`. Throws Error{kConfig} for one that is not there.
std::string describe_workloads(const Workloads& all, const std::vector<std::string>& installed,
                               const std::string& gpu_type, const std::vector<std::string>& only);

}  // namespace nereus::recipe
