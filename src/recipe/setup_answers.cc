#include "recipe/setup_answers.h"

#include <sys/utsname.h>

#include <algorithm>
#include <filesystem>

#include "base/check.h"
#include "base/suggest.h"
#include "recipe/artifacts.h"
#include "recipe/cluster_survey.h"
#include "recipe/node_gpus.h"
#include "recipe/yaml.h"

namespace nereus::recipe {
namespace {

namespace fs = std::filesystem;

const std::vector<std::string> kKeys = {
    "install_path",     "slurm",     "gpu_type",       "node_architecture", "dataset_shards",
    "environment_vars", "venv_type", "install_method", "selected_workloads"};
const std::vector<std::string> kSlurmKeys = {"account", "gpu_partition", "cpu_partition",
                                             "gpu_partition_gres", "cpu_partition_gres"};

constexpr const char* kAccount = "SBATCH_ACCOUNT";
constexpr const char* kPartition = "SBATCH_PARTITION";
constexpr const char* kGres = "SBATCH_GPUS_PER_NODE";

std::string value(const Variables& v, const char* name) {
  const auto it = v.find(name);
  return it == v.end() ? "" : it->second;
}

// Removes the hub's tokens; returns one of them, or "".
std::string take_token(Variables& v) {
  std::string token;
  for (auto it = v.begin(); it != v.end();) {
    if (is_hub_token(it->first)) {
      if (token.empty()) token = it->second;
      it = v.erase(it);
    } else {
      ++it;
    }
  }
  return token;
}

void check_known(const YamlFile& file, const YAML::Node& node, const std::string& where,
                 const std::vector<std::string>& known) {
  for (const auto& item : node) {
    const std::string key = item.first.Scalar();
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    const std::string near = nearest(key, known);
    file.fail(item.first, fmt::format("there is no key {}{}{}", where, key,
                                      near.empty() ? "." : "; did you mean " + near + "?"));
  }
}

std::optional<int> number(const YamlFile& file, const YAML::Node& parent, const std::string& key) {
  const std::string text = file.text(parent, "slurm", key);
  if (text.empty()) return std::nullopt;
  const std::optional<int> gpus = gpus_of_gres(text);
  if (const std::string wrong = wrong_gpus(gpus ? fmt::format("{}", *gpus) : text); !wrong.empty())
    file.fail(parent[key], fmt::format("slurm.{} = {}: {}", key, text, wrong));
  return gpus;
}

// A play file, or without install_path a system configuration.
SetupAnswers read(const std::string& path, bool with_path) {
  const YamlFile file(path, with_path ? "play file" : "system configuration");
  const YAML::Node& root = file.root();
  check_known(file, root, "", kKeys);
  const YAML::Node slurm = file.map(root, "", "slurm");
  check_known(file, slurm, "slurm.", kSlurmKeys);
  std::string missing;
  const auto need = [&](const YAML::Node& node, const std::string& where, const char* key) {
    if (!node[key].IsDefined()) missing += (missing.empty() ? "" : ", ") + where + key;
  };
  if (with_path) need(root, "", "install_path");
  need(root, "", "gpu_type");
  need(slurm, "slurm.", "account");
  need(slurm, "slurm.", "gpu_partition");
  NEREUS_CHECK(kConfig, missing.empty(),
               "{}: missing {}. `nereus setup --record FILE` asks for everything and writes one.",
               path, missing);

  SetupAnswers a;
  if (with_path) a.install_path = file.required_text(root, "", "install_path");
  a.gpu_type = file.required_text(root, "", "gpu_type");
  if (const std::string wrong = wrong_gpu_type(a.gpu_type); !wrong.empty())
    file.fail(root["gpu_type"], fmt::format("gpu_type = {}: {}", a.gpu_type, wrong));
  a.account = file.text(slurm, "slurm", "account");
  a.gpu_partition = file.required_text(slurm, "slurm", "gpu_partition");
  a.cpu_partition = file.text(slurm, "slurm", "cpu_partition");
  if (a.cpu_partition.empty()) a.cpu_partition = a.gpu_partition;
  a.gpus_per_node = number(file, slurm, "gpu_partition_gres");
  a.cpu_gres = number(file, slurm, "cpu_partition_gres");
  a.node_architecture = file.text(root, "", "node_architecture");
  if (a.node_architecture.empty()) a.node_architecture = architecture();
  if (root["dataset_shards"].IsDefined()) a.dataset_shards = file.text(root, "", "dataset_shards");
  if (const std::string wrong = wrong_shards(a.dataset_shards); !wrong.empty())
    file.fail(root["dataset_shards"],
              fmt::format("dataset_shards = {}: {}", a.dataset_shards, wrong));
  a.environment = file.strings(root, "", "environment_vars");
  a.token = take_token(a.environment);
  for (const std::string& workload : file.texts(root, "", "selected_workloads"))
    if (workload != kWorkload && workload != "all")
      file.fail(root["selected_workloads"],
                fmt::format("{} is not a workload of this program, which has {} alone.", workload,
                            kWorkload));
  return a;
}

void write(const SetupAnswers& a, const std::string& path, bool with_path) {
  YAML::Emitter out;
  const auto emit = [&](const char* key, const std::string& value) {
    out << YAML::Key << key << YAML::Value << value;
  };
  const auto emit_number = [&](const char* key, const std::optional<int>& value) {
    out << YAML::Key << key << YAML::Value;
    if (value)
      out << *value;
    else
      out << YAML::Null;
  };
  out << YAML::BeginMap;
  if (with_path) emit("install_path", a.install_path);
  emit("gpu_type", a.gpu_type);
  emit("node_architecture", a.node_architecture);
  out << YAML::Key << "slurm" << YAML::Value << YAML::BeginMap;
  emit("account", a.account);
  emit("gpu_partition", a.gpu_partition);
  emit("cpu_partition", a.cpu_partition);
  emit_number("gpu_partition_gres", a.gpus_per_node);
  emit_number("cpu_partition_gres", a.cpu_gres);
  out << YAML::EndMap;
  emit("dataset_shards", a.dataset_shards);
  out << YAML::Key << "environment_vars" << YAML::Value << YAML::BeginMap;
  for (const auto& [name, value] : a.environment) emit(name.c_str(), value);
  out << YAML::EndMap;
  if (with_path)
    out << YAML::Key << "selected_workloads" << YAML::Value << YAML::BeginSeq << kWorkload
        << YAML::EndSeq;
  out << YAML::EndMap;
  // Its variables may be private.
  write_file(path, std::string(out.c_str()) + "\n", Readers::owner);
}

}  // namespace

SetupAnswers read_play_file(const std::string& path) { return read(path, true); }
void write_play_file(const SetupAnswers& a, const std::string& path) { write(a, path, true); }

std::string system_config_path(const Variables& environment) {
  const auto home = environment.find("HOME");
  return (home == environment.end() ? std::string(".") : home->second) +
         "/.config/llmb/system_config.yaml";
}

SetupAnswers read_system_config(const std::string& path) {
  std::error_code error;
  NEREUS_CHECK(kConfig, fs::exists(path, error),
               "{}: is not there, and express takes the answers of an earlier setup from it. Run "
               "`nereus setup` once, or `nereus setup --play FILE`.",
               path);
  return read(path, false);
}

void write_system_config(const SetupAnswers& a, const std::string& path) {
  std::error_code error;
  fs::create_directories(fs::path(path).parent_path(), error);
  write(a, path, false);
}

std::string wrong_gpu_type(const std::string& value) {
  for (const char* type : kGpuTypes)
    if (value == type) return "";
  return fmt::format("it must be one of {}.", fmt::join(kGpuTypes, ", "));
}

std::string wrong_shards(const std::string& value) {
  if (value == "all" || value == "none") return "";
  const bool digits = !value.empty() && value.size() < 5 &&
                      value.find_first_not_of("0123456789") == std::string::npos;
  const int n = digits ? std::atoi(value.c_str()) : 0;
  return n >= 1 && n <= kDatasetShards
             ? ""
             : fmt::format("it must be all, none, or a number from 1 to {}.", kDatasetShards);
}

std::string wrong_gpus(const std::string& value) {
  const bool good = value.size() <= 2 && !value.empty() &&
                    value.find_first_not_of("0123456789") == std::string::npos &&
                    std::atoi(value.c_str()) >= 1 && std::atoi(value.c_str()) <= 72;
  return good ? "" : "it must be a number of GPUs a node, 4 or 8 as a rule.";
}

std::string architecture() {
  utsname name{};
  return uname(&name) == 0 ? name.machine : "x86_64";
}

void put_answers(ClusterConfig& c, const SetupAnswers& a, const std::string& repository,
                 const std::string& cluster_name) {
  c.llmb_repo = repository;
  c.llmb_install = a.install_path;
  c.gpu_type = a.gpu_type;
  if (!cluster_name.empty()) c.cluster_name = cluster_name;
  c.node_architecture = a.node_architecture;
  for (const auto& [name, value] : a.environment) c.environment[name] = value;

  // What holds already is left as it stands: a partition for both kinds of jobs, gres of "h100:8".
  if (value(c.gpu_variables(), kAccount) != a.account) {
    c.gpu.erase("account");
    c.slurm.erase("account");
    if (!a.account.empty()) c.slurm["account"] = a.account;
  }
  const auto put = [](ClusterConfig::SlurmKeys& block, const Variables& holds,
                      const std::string& partition, const std::optional<int>& gpus) {
    if (value(holds, kPartition) != partition) block["partition"] = partition;
    if (gpus_of_gres(value(holds, kGres)) != gpus)
      block["gres"] = gpus ? std::optional(fmt::format("{}", *gpus)) : std::nullopt;
  };
  const Variables for_cpu = c.cpu_variables();
  if (!c.cpu) c.cpu = c.gpu;
  put(c.gpu, c.gpu_variables(), a.gpu_partition, a.gpus_per_node);
  put(*c.cpu, for_cpu, a.cpu_partition, a.cpu_gres);

  if (std::find(c.installed.begin(), c.installed.end(), kWorkload) == c.installed.end())
    c.installed.push_back(kWorkload);
  c.workloads.try_emplace(kWorkload);
}

SetupAnswers answers_of(const ClusterConfig& c) {
  const Variables gpu = c.gpu_variables(), cpu = c.cpu_variables();
  SetupAnswers a;
  a.install_path = c.llmb_install;
  a.account = value(gpu, kAccount);
  a.gpu_partition = value(gpu, kPartition);
  a.cpu_partition = value(cpu, kPartition);
  a.gpus_per_node = gpus_of_gres(value(gpu, kGres));
  a.cpu_gres = gpus_of_gres(value(cpu, kGres));
  a.gpu_type = c.gpu_type;
  a.node_architecture = c.node_architecture;
  a.environment = c.environment;
  take_token(a.environment);
  a.token = c.hub_token;
  return a;
}

}  // namespace nereus::recipe
