#include "recipe/run_config.h"

#include <filesystem>

#include "recipe/tasks.h"
#include "recipe/yaml.h"

namespace nereus::recipe {
namespace {

class Writer {
 public:
  void section(const char* name) {
    if (open_) out_ << YAML::EndMap;
    out_ << YAML::Key << name << YAML::Value << YAML::BeginMap;
    open_ = true;
  }
  void text(const char* key, const std::string& value) {
    out_ << YAML::Key << key << YAML::Value;
    if (value.empty())
      out_ << YAML::Null;
    else
      out_ << YAML::DoubleQuoted << value;
  }
  template <class T>
  void plain(const char* key, T value) {
    out_ << YAML::Key << key << YAML::Value << value;
  }
  void strings(const char* key, const Variables& values) {
    out_ << YAML::Key << key << YAML::Value << YAML::BeginMap;
    for (const auto& [name, value] : values) text(name.c_str(), value);
    out_ << YAML::EndMap;
  }
  void list(const char* key, const std::vector<std::string>& values) {
    out_ << YAML::Key << key << YAML::Value << YAML::BeginSeq;
    for (const std::string& value : values) out_ << YAML::DoubleQuoted << value;
    out_ << YAML::EndSeq;
  }
  YAML::Emitter& emitter() { return out_; }

 private:
  YAML::Emitter out_;
  bool open_ = false;
};

}  // namespace

void write_run_config(const RunConfig& c, const std::string& path) {
  Writer w;
  w.emitter() << YAML::BeginMap;
  w.section("job_info");
  w.text("job_id", c.job_id);
  w.text("launcher_type", c.launcher_type);
  w.text("launch_time", c.launch_time);
  w.text("experiment_id", "");
  w.section("workload_info");
  w.text("framework", c.framework);
  w.text("gsw_version", c.gsw_version);
  w.text("fw_version", c.fw_version);
  w.text("workload_type", c.workload_type);
  w.plain("synthetic_dataset", c.synthetic_dataset);
  w.section("model_info");
  w.text("model_name", c.model_name);
  w.text("model_size", c.model_size);
  w.text("dtype", c.dtype);
  w.plain("scale", c.scale);
  w.text("gpu_type", c.gpu_type);
  w.section("cluster_info");
  w.text("cluster_name", c.cluster_name);
  w.text("gpus_per_node", c.gpus_per_node);
  w.text("llmb_install", c.llmb_install);
  w.text("llmb_repo", c.llmb_repo);
  w.text("slurm_account", c.slurm_account);
  w.text("slurm_gpu_partition", c.slurm_gpu_partition);
  w.text("slurm_cpu_partition", c.slurm_cpu_partition);
  w.section("container_info");
  w.list("images", c.images);
  w.section("job_config");
  w.plain("profile_enabled", c.profile_enabled);
  w.plain("proxy", c.proxy);
  w.plain("strong_scaling", c.strong_scaling);
  w.strings("env_overrides", masked(c.env_overrides));
  w.strings("model_overrides", masked(c.model_overrides));
  w.emitter() << YAML::EndMap << YAML::EndMap;
  write_file(path, std::string(w.emitter().c_str()) + "\n");
}

std::optional<RunConfig> read_run_config(const std::string& path) {
  try {
    const YamlFile file(path, "run's configuration");
    const YAML::Node job = file.map(file.root(), "", "job_info");
    const YAML::Node workload = file.map(file.root(), "", "workload_info");
    const YAML::Node model = file.map(file.root(), "", "model_info");
    const YAML::Node settings = file.map(file.root(), "", "job_config");
    RunConfig c;
    c.job_id = file.text(job, "job_info", "job_id");
    if (c.job_id.empty()) {  // older files have it in their name alone
      const std::string name = std::filesystem::path(path).stem().string();
      c.job_id = name.substr(name.rfind('_') + 1);
    }
    c.launcher_type = file.text(job, "job_info", "launcher_type");
    c.launch_time = file.text(job, "job_info", "submit_time");
    if (c.launch_time.empty()) c.launch_time = file.text(job, "job_info", "launch_time");
    c.framework = file.text(workload, "workload_info", "framework");
    c.model_name = file.text(model, "model_info", "model_name");
    c.model_size = file.text(model, "model_info", "model_size");
    c.dtype = file.text(model, "model_info", "dtype");
    c.scale = std::strtoll(file.text(model, "model_info", "scale").c_str(), nullptr, 10);
    c.gpu_type = file.text(model, "model_info", "gpu_type");
    c.profile_enabled = file.text(settings, "job_config", "profile_enabled") == "true";
    c.proxy = file.text(settings, "job_config", "proxy") == "true";
    c.env_overrides = file.strings(settings, "job_config", "env_overrides");
    c.model_overrides = file.strings(settings, "job_config", "model_overrides");
    return c;
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace nereus::recipe
