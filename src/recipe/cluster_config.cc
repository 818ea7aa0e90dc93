#include "recipe/cluster_config.h"

#include <algorithm>

#include "base/files.h"
#include "base/text.h"
#include "recipe/tasks.h"
#include "recipe/yaml.h"

namespace nereus::recipe {
namespace {

constexpr const char* kFile = "cluster_config.yaml";

ClusterConfig::SlurmKeys slurm_keys(const YamlFile& file, const YAML::Node& block,
                                    const std::string& where) {
  ClusterConfig::SlurmKeys out;
  for (const auto& item : block) {
    const std::string key = item.first.Scalar();
    if (where == "slurm" && (key == "gpu" || key == "cpu")) continue;
    if (item.second.IsNull())
      out[key] = std::nullopt;
    else if (item.second.IsScalar())
      out[key] = item.second.Scalar();
    else
      file.fail(item.second, fmt::format("{}.{} must be one value. Only slurm.gpu and slurm.cpu "
                                         "are blocks.",
                                         where, key));
  }
  return out;
}

// gpu_partition, cpu_gres and the like as the blocks of schema 2.
void split_old_keys(ClusterConfig& config) {
  ClusterConfig::SlurmKeys cpu;
  for (const auto& [prefix, block] :
       {std::pair<std::string, ClusterConfig::SlurmKeys*>{"gpu_", &config.gpu}, {"cpu_", &cpu}}) {
    for (const char* key : {"partition", "gres"}) {
      const auto it = config.slurm.find(prefix + key);
      if (it == config.slurm.end()) continue;
      if (it->second) (*block)[key] = it->second;
      config.slurm.erase(it);
    }
  }
  if (!cpu.empty()) config.cpu = cpu;
}

void read_slurm(const YamlFile& file, ClusterConfig& config) {
  const YAML::Node root = file.root()["slurm"];
  if (!root.IsDefined() || root.IsNull())
    file.fail(file.root(), "Missing required 'slurm' section: slurm.gpu.partition is the least.");
  const YAML::Node slurm = file.map(file.root(), "", "slurm");
  config.slurm = slurm_keys(file, slurm, "slurm");
  const bool blocks = slurm["gpu"].IsDefined() || slurm["cpu"].IsDefined();
  for (const char* old : {"gpu_partition", "cpu_partition", "gpu_gres", "cpu_gres"})
    if (blocks && config.slurm.count(old))
      file.fail(slurm[old], fmt::format("slurm.{} cannot be combined with the blocks slurm.gpu and "
                                        "slurm.cpu: move it into its block.",
                                        old));
  if (blocks) {
    config.gpu = slurm_keys(file, file.map(slurm, "slurm", "gpu"), "slurm.gpu");
    if (slurm["cpu"].IsDefined() && slurm["cpu"].size())
      config.cpu = slurm_keys(file, file.map(slurm, "slurm", "cpu"), "slurm.cpu");
  } else {
    split_old_keys(config);
  }
  const Variables gpu = config.gpu_variables();
  if (!gpu.count("SBATCH_PARTITION") && !gpu.count("SLURM_PARTITION"))
    file.fail(slurm, "no partition for jobs on GPUs: set slurm.gpu.partition.");
}

// As Slurm names the variable that sets an option.
std::string slurm_variable(const std::string& key) {
  std::string name = upper(key);
  std::replace(name.begin(), name.end(), '-', '_');
  if (name == "GRES") return "SBATCH_GPUS_PER_NODE";
  return name.starts_with("SBATCH_") || name.starts_with("SLURM_") ? name : "SBATCH_" + name;
}

Variables variables(const ClusterConfig::SlurmKeys& common, const ClusterConfig::SlurmKeys& block) {
  Variables out;
  for (const auto* keys : {&common, &block}) {
    for (const auto& [key, value] : *keys) {
      if (value)
        out[slurm_variable(key)] = *value;
      else
        out.erase(slurm_variable(key));
    }
  }
  return out;
}

void emit(YAML::Emitter& out, const ClusterConfig::SlurmKeys& keys) {
  for (const auto& [key, value] : keys) {
    out << YAML::Key << key << YAML::Value;
    if (value)
      out << YAML::DoubleQuoted << *value;
    else
      out << YAML::Null;
  }
}
void emit(YAML::Emitter& out, const std::string& key, const std::string& value) {
  if (is_hub_token(key)) return;
  out << YAML::Key << key << YAML::Value << YAML::DoubleQuoted << value;
}
void emit(YAML::Emitter& out, const std::string& key, const Variables& values) {
  out << YAML::Key << key << YAML::Value << YAML::BeginMap;
  for (const auto& [name, value] : values) emit(out, name, value);
  out << YAML::EndMap;
}

// What may be anything. Unlike YAML::Emitter's own way it keeps the quotes of "8" and "true".
void emit(YAML::Emitter& out, const YAML::Node& node);
void emit_members(YAML::Emitter& out, const YAML::Node& map,
                  const std::vector<std::string>& without = {}) {
  for (const auto& item : map) {
    const std::string key = item.first.Scalar();
    if (is_hub_token(key) || std::find(without.begin(), without.end(), key) != without.end())
      continue;
    out << YAML::Key;
    emit(out, item.first);
    out << YAML::Value;
    emit(out, item.second);
  }
}
void emit(YAML::Emitter& out, const YAML::Node& node) {
  if (node.IsMap()) {
    out << YAML::BeginMap;
    emit_members(out, node);
    out << YAML::EndMap;
  } else if (node.IsSequence()) {
    out << YAML::BeginSeq;
    for (const YAML::Node& item : node) emit(out, item);
    out << YAML::EndSeq;
  } else if (node.IsNull()) {
    out << YAML::Null;
  } else {
    if (node.Tag() == "!") out << YAML::DoubleQuoted;
    out << node.Scalar();
  }
}

// Keeps in `config` what is not known of a map.
void keep_unknown(ClusterConfig& config, const std::string& where, const YAML::Node& map,
                  const std::vector<std::string>& known) {
  YAML::Emitter out;
  out << YAML::BeginMap;
  emit_members(out, map, known);
  out << YAML::EndMap;
  if (YAML::Load(out.c_str()).size()) config.unknown[where] = out.c_str();
}
void emit_unknown(YAML::Emitter& out, const ClusterConfig& config, const std::string& where) {
  const auto it = config.unknown.find(where);
  if (it != config.unknown.end()) emit_members(out, YAML::Load(it->second));
}

// The first of the hub's tokens that stands anywhere below; "" without one.
std::string find_hub_token(const YAML::Node& node) {
  for (const auto& item : node) {
    std::string token;
    if (!node.IsMap())
      token = find_hub_token(item);
    else if (!is_hub_token(item.first.Scalar()))
      token = find_hub_token(item.second);
    else if (item.second.IsScalar())
      token = item.second.Scalar();
    if (!token.empty()) return token;
  }
  return "";
}

// By a key's name, or a password in an address ("http://me:secret@proxy").
bool holds_secret(const YAML::Node& node) {
  if (node.IsScalar()) {
    const std::string& text = node.Scalar();
    const size_t at = text.find("://");
    if (at == std::string::npos) return false;
    const std::string authority = text.substr(at + 3, text.find('/', at + 3) - at - 3);
    return authority.find(':') < authority.find('@') && authority.find('@') != std::string::npos;
  }
  for (const auto& item : node) {
    if (!node.IsMap()) {
      if (holds_secret(item)) return true;
      continue;
    }
    if (is_secret(item.first.Scalar()) || holds_secret(item.second)) return true;
  }
  return false;
}

double memory_of(const YamlFile& file, const YAML::Node& at, const std::string& type,
                 const std::string& text) {
  const double gib = at[type].as<double>(0);
  if (!(gib >= 1 && gib <= 4096))
    file.fail(at, fmt::format("gpu_memory_gib of {} is \"{}\", which is no number of GiB from 1 to "
                              "4096 (an H100 of 80 GB offers 79.1).",
                              type, text));
  return gib;
}

}  // namespace

bool is_hub_token(const std::string& variable) {
  return variable == "HF_TOKEN" || variable == "HUGGING_FACE_HUB_TOKEN";
}

Variables ClusterConfig::gpu_variables() const { return variables(slurm, gpu); }
Variables ClusterConfig::cpu_variables() const { return variables(slurm, cpu ? *cpu : gpu); }

ClusterConfig read_cluster_config(const std::string& path) {
  const YamlFile file(path, "cluster configuration");
  const YAML::Node& root = file.root();
  const std::string schema = file.text(root, "", "schema_version");
  if (!schema.empty() && schema != "1" && schema != "2")
    file.fail(root["schema_version"],
              fmt::format("schema_version {} is not known: 1 and 2 are.", schema));
  const bool old = schema != "2";
  if (old != root["launcher"].IsDefined())
    file.fail(old ? root : root["launcher"],
              old ? "Missing required 'launcher' section of schema 1; a file with llmb_repo, "
                    "llmb_install and gpu_type at its top level needs \"schema_version: 2\"."
                  : "schema 2 has no 'launcher' section: move its keys to the top level.");

  ClusterConfig config;
  const std::string where = old ? "launcher" : "";
  const YAML::Node top = old ? file.map(root, "", "launcher") : root;
  config.llmb_repo = file.required_text(top, where, "llmb_repo");
  config.llmb_install = file.required_text(top, where, "llmb_install");
  config.gpu_type = file.required_text(top, where, "gpu_type");
  config.cluster_name = file.text(top, where, "cluster_name");
  const YAML::Node install = file.map(root, "", "install");
  if (install["node_architecture"].IsDefined())
    config.node_architecture = file.required_text(install, "install", "node_architecture");
  for (const auto& [type, gib] : file.strings(top, where, "gpu_memory_gib"))
    config.gpu_memory_gib[lower(type)] = memory_of(file, top["gpu_memory_gib"], type, gib);
  config.environment = file.strings(root, "", "environment");
  config.hub_token = find_hub_token(root);
  read_slurm(file, config);

  const YAML::Node workloads = file.map(root, "", "workloads");
  config.installed = file.texts(workloads, "workloads", "installed");
  const YAML::Node settings = file.map(workloads, "workloads", "config");
  for (const auto& item : settings) {
    const std::string key = item.first.Scalar(), at = "workloads.config." + key;
    const YAML::Node node = file.map(settings, "workloads.config", key);
    config.workloads[key] = {.venv_path = file.text(node, at, "venv_path"),
                             .venv_type = file.text(node, at, "venv_type"),
                             .environment = file.strings(node, at, "environment")};
    keep_unknown(config, at, node, {"venv_path", "venv_type", "environment"});
  }
  keep_unknown(config, "install", install, {"node_architecture"});
  keep_unknown(config, "workloads", workloads, {"installed", "config"});
  // What stands in schema 1's launcher stands at the top level of schema 2.
  YAML::Node all = YAML::Clone(root);
  for (const auto& item : top)
    if (!all[item.first.Scalar()].IsDefined()) all[item.first.Scalar()] = item.second;
  keep_unknown(config, "", all,
               {"schema_version", "launcher", "llmb_repo", "llmb_install", "gpu_type",
                "cluster_name", "gpu_memory_gib", "install", "environment", "slurm", "workloads"});
  return config;
}

void write_cluster_config(const ClusterConfig& config, const std::string& path) {
  YAML::Emitter out;
  out << YAML::BeginMap << YAML::Key << "schema_version" << YAML::Value << 2;
  emit(out, "llmb_repo", config.llmb_repo);
  emit(out, "llmb_install", config.llmb_install);
  emit(out, "gpu_type", config.gpu_type);
  if (!config.cluster_name.empty()) emit(out, "cluster_name", config.cluster_name);
  if (!config.gpu_memory_gib.empty()) {
    out << YAML::Key << "gpu_memory_gib" << YAML::Value << YAML::BeginMap;
    for (const auto& [type, gib] : config.gpu_memory_gib)
      out << YAML::Key << type << YAML::Value << gib;
    out << YAML::EndMap;
  }
  out << YAML::Key << "install" << YAML::Value << YAML::BeginMap;
  emit(out, "node_architecture", config.node_architecture);
  emit_unknown(out, config, "install");
  out << YAML::EndMap;
  emit(out, "environment", config.environment);

  out << YAML::Key << "slurm" << YAML::Value << YAML::BeginMap;
  emit(out, config.slurm);
  out << YAML::Key << "gpu" << YAML::Value << YAML::BeginMap;
  emit(out, config.gpu);
  out << YAML::EndMap;
  if (config.cpu) {
    out << YAML::Key << "cpu" << YAML::Value << YAML::BeginMap;
    emit(out, *config.cpu);
    out << YAML::EndMap;
  }
  out << YAML::EndMap;

  out << YAML::Key << "workloads" << YAML::Value << YAML::BeginMap;
  out << YAML::Key << "installed" << YAML::Value << YAML::BeginSeq;
  for (const std::string& key : config.installed) out << key;
  out << YAML::EndSeq << YAML::Key << "config" << YAML::Value << YAML::BeginMap;
  for (const auto& [key, workload] : config.workloads) {
    out << YAML::Key << key << YAML::Value << YAML::BeginMap;
    if (!workload.venv_path.empty()) emit(out, "venv_path", workload.venv_path);
    if (!workload.venv_type.empty()) emit(out, "venv_type", workload.venv_type);
    emit(out, "environment", workload.environment);
    emit_unknown(out, config, "workloads.config." + key);
    out << YAML::EndMap;
  }
  out << YAML::EndMap;
  emit_unknown(out, config, "workloads");
  out << YAML::EndMap;
  emit_unknown(out, config, "");
  out << YAML::EndMap;
  const bool secret = holds_secret(YAML::Load(out.c_str()));
  write_file(path, std::string(out.c_str()) + "\n", secret ? Readers::owner : Readers::all);
}

std::string find_cluster_config(const std::string& install) {
  if (is_there(kFile)) return absolute_path(kFile);
  const std::string there = install + "/" + kFile;
  if (!install.empty() && is_there(there)) return there;
  NEREUS_FAIL(kConfig,
              "Cluster configuration file '{}' not found. Looked in the current directory and "
              "under the path specified by the LLMB_INSTALL environment variable ({}). `nereus "
              "setup` writes it.",
              kFile, install.empty() ? "not set" : install);
}

}  // namespace nereus::recipe
