#include "recipe/metadata.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <set>

#include "recipe/yaml.h"

namespace nereus::recipe {
namespace {

namespace fs = std::filesystem;

std::vector<int64_t> scales_of(const YamlFile& file, const YAML::Node& parent,
                               const std::string& where, const std::string& key) {
  std::vector<int64_t> out;
  for (const std::string& text : file.texts(parent, where, key)) {
    char* end = nullptr;
    const int64_t n = std::strtoll(text.c_str(), &end, 10);
    if (*end || n < 1 || text.size() > 9)
      file.fail(parent[key],
                fmt::format("{}.{} has \"{}\": a scale is a number of GPUs.", where, key, text));
    out.push_back(n);
  }
  std::sort(out.begin(), out.end());
  return out;
}

bool flag(const YamlFile& file, const YAML::Node& parent, const std::string& where,
          const std::string& key, bool otherwise) {
  const std::string text = file.text(parent, where, key);
  if (text.empty()) return otherwise;
  if (text != "true" && text != "false")
    file.fail(parent[key], fmt::format("{}.{} = {}: it must be true or false.", where, key, text));
  return text == "true";
}

// `dtypes` is a list next to `scales`, or a map from data type to scales or to a map of its own.
std::vector<Workload::DType> dtypes_of(const YamlFile& file, const YAML::Node& model,
                                       const std::string& where) {
  const bool exact = flag(file, model, where, "exact_scales", false);
  const std::vector<int64_t> proxy = scales_of(file, model, where, "proxy_scales");
  std::vector<Workload::DType> out;
  const YAML::Node dtypes = model["dtypes"];
  if (!dtypes.IsDefined() || !dtypes.IsMap()) {
    for (const std::string& name : file.texts(model, where, "dtypes"))
      out.push_back({name, scales_of(file, model, where, "scales"), proxy, exact});
  } else {
    for (const auto& item : dtypes) {
      const std::string name = item.first.Scalar(), at = where + ".dtypes." + name;
      if (item.second.IsMap())
        out.push_back({name, scales_of(file, item.second, at, "scales"),
                       item.second["proxy_scales"].IsDefined()
                           ? scales_of(file, item.second, at, "proxy_scales")
                           : proxy,
                       flag(file, item.second, at, "exact_scales", exact)});
      else
        out.push_back({name, scales_of(file, dtypes, where + ".dtypes", name), proxy, exact});
    }
  }
  if (out.empty()) file.fail(model, fmt::format("{} has no dtypes.", where));
  return out;
}

double billions(const std::string& size) {
  if (size.empty()) return 0;
  return std::strtod(size.c_str(), nullptr) * (std::tolower(size.back()) == 't' ? 1000 : 1);
}

Workload::Gpu gpu_of(const YamlFile& file, const YAML::Node& node, const std::string& where) {
  Workload::Gpu gpu;
  gpu.note = file.text(node, where, "note");
  const YAML::Node models = node["model_configs"];
  if (!models.IsDefined() || !models.IsSequence())
    file.fail(models.IsDefined() ? models : node,
              fmt::format("{}.model_configs must be a list.", where));
  for (const YAML::Node& model : models) {
    const std::string at = where + ".model_configs";
    if (!model.IsMap()) file.fail(model, fmt::format("{} must be a list of maps.", at));
    gpu.sizes.push_back({file.required_text(model, at, "model_size"), dtypes_of(file, model, at)});
  }
  std::stable_sort(gpu.sizes.begin(), gpu.sizes.end(), [](const auto& a, const auto& b) {
    return billions(a.name) < billions(b.name);
  });
  return gpu;
}

// A list of names or of {url, name}, the same for every GPU type or by_gpu.
void read_images(const YamlFile& file, Workload& workload) {
  const auto list = [&](const YAML::Node& node) {
    std::vector<std::string> out;
    if (node.IsNull()) return out;
    if (!node.IsSequence()) file.fail(node, "container.images must be a list, or by_gpu.");
    for (const YAML::Node& image : node)
      out.push_back(image.IsMap() ? file.required_text(image, "container.images", "url")
                                  : image.Scalar());
    return out;
  };
  const YAML::Node images = file.map(file.root(), "", "container")["images"];
  if (!images.IsDefined()) return;
  if (!images.IsMap()) {
    workload.images["default"] = list(images);
    return;
  }
  for (const auto& item : file.map(images, "container.images", "by_gpu"))
    workload.images[item.first.Scalar()] = list(item.second);
}

Workload read_workload(const std::string& path) {
  const YamlFile file(path, "workload's metadata");
  const YAML::Node general = file.map(file.root(), "", "general");
  Workload w;
  w.name = file.required_text(general, "general", "workload");
  w.type = file.required_text(general, "general", "workload_type");
  w.framework = file.text(general, "general", "framework");
  w.model = file.text(general, "general", "model");
  if (w.model.empty()) w.model = w.name;
  w.key = w.type + "_" + w.name;
  w.folder = fs::path(path).parent_path().string();
  read_images(file, w);
  const YAML::Node run = file.map(file.root(), "", "run");
  w.launcher_type = file.text(run, "run", "launcher_type");
  w.launch_script = file.text(run, "run", "launch_script");
  if (w.launch_script.empty()) w.launch_script = "launch.sh";
  const YAML::Node gpus = file.map(run, "run", "gpu_configs");
  for (const auto& item : gpus) {
    const std::string gpu = item.first.Scalar();
    w.gpus[gpu] = gpu_of(file, file.map(gpus, "run.gpu_configs", gpu), "run.gpu_configs." + gpu);
  }
  return w;
}

std::string scale_lines(const Workload::Size& size) {
  const auto same = [&](auto what) {
    return std::all_of(size.dtypes.begin(), size.dtypes.end(),
                       [&](const auto& d) { return what(d) == what(size.dtypes[0]); });
  };
  std::string out;
  if (same([](const auto& d) { return d.scales; }) &&
      same([](const auto& d) { return d.exact_scales; })) {
    const Workload::DType& d = size.dtypes[0];
    out +=
        fmt::format("    Scales: {}{}\n",
                    d.scales.empty() ? "None specified" : fmt::to_string(fmt::join(d.scales, ", ")),
                    d.exact_scales ? " (exact matches only)" : "");
  } else {
    out += "    Scales by dtype:\n";
    for (const Workload::DType& d : size.dtypes)
      out += fmt::format("      {}: {}{}\n", d.name, fmt::join(d.scales, ", "),
                         d.exact_scales ? " (exact)" : "");
  }
  for (const Workload::DType& d : size.dtypes)
    if (!d.proxy_scales.empty())
      out += fmt::format("    Proxy scales of {}: {}\n", d.name, fmt::join(d.proxy_scales, ", "));
  return out;
}

}  // namespace

const Workload::Gpu* Workload::gpu(const std::string& gpu_type) const {
  const auto it = gpus.find(gpu_type);
  return it == gpus.end() ? nullptr : &it->second;
}

const Workload::Size* Workload::size(const std::string& gpu_type, const std::string& wanted) const {
  if (const Gpu* runs = gpu(gpu_type))
    for (const Size& s : runs->sizes)
      if (s.name == wanted) return &s;
  return nullptr;
}

std::vector<std::string> Workload::images_for(const std::string& gpu_type) const {
  auto it = images.find(gpu_type);
  if (it == images.end()) it = images.find("default");
  return it == images.end() ? std::vector<std::string>() : it->second;
}

Workloads read_workloads(const std::string& repository) {
  std::error_code error;
  const fs::path recipes = fs::path(repository) / "recipes";
  const fs::path root = fs::is_directory(recipes, error) ? recipes : fs::path(repository);
  NEREUS_CHECK(kConfig, fs::is_directory(root, error),
               "{}: there is no such folder, and cluster_config.yaml names it as llmb_repo. Set it "
               "to where Nereus (or NVIDIA's exemplar-performance) is.",
               repository);
  Workloads out;
  for (auto it = fs::recursive_directory_iterator(
           root, fs::directory_options::skip_permission_denied, error);
       !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with(".") && it->is_directory(error)) it.disable_recursion_pending();
    if (name != "metadata.yaml") continue;
    Workload w = read_workload(it->path().string());
    const std::string key = w.key;
    out[key] = std::move(w);
  }
  return out;
}

std::pair<std::string, std::string> split_size(const std::string& name) {
  const size_t at = name.rfind('_');
  if (at == std::string::npos || at + 2 >= name.size()) return {name, ""};
  std::string size = name.substr(at + 1);
  size.back() = static_cast<char>(std::tolower(static_cast<unsigned char>(size.back())));
  const std::string digits = size.substr(0, size.size() - 1);
  const bool number = digits.find_first_not_of("0123456789.") == std::string::npos &&
                      std::count(digits.begin(), digits.end(), '.') <= 1 && digits.front() != '.' &&
                      digits.back() != '.';
  if (!number || (size.back() != 'b' && size.back() != 't')) return {name, ""};
  return {name.substr(0, at), size};
}

std::string describe_workloads(const Workloads& all, const std::vector<std::string>& installed,
                               const std::string& gpu_type, const std::vector<std::string>& only) {
  const auto is_installed = [&](const std::string& key) {
    return std::find(installed.begin(), installed.end(), key) != installed.end();
  };
  for (const std::string& key : only) {
    NEREUS_CHECK(kConfig, all.count(key), "Workload '{}' not found.{}", key,
                 installed.empty()
                     ? ""
                     : fmt::format("\nInstalled workloads: {}", fmt::join(installed, ", ")));
    NEREUS_CHECK(kConfig, is_installed(key),
                 "Workload '{}' is not installed on this cluster.\nInstalled workloads: {}", key,
                 fmt::join(installed, ", "));
  }
  std::string out;
  for (const auto& [key, w] : all) {
    if (only.empty() ? !is_installed(key) : std::find(only.begin(), only.end(), key) == only.end())
      continue;
    std::string gpu_types;
    for (const auto& item : w.gpus) gpu_types += (gpu_types.empty() ? "" : ", ") + item.first;
    out += fmt::format("\n{}:\n", key);
    const Workload::Gpu* gpu = w.gpu(gpu_type);
    if (!gpu) {
      out += fmt::format("  does not run on {}; it does on {}\n", gpu_type, gpu_types);
      continue;
    }
    for (const Workload::Size& size : gpu->sizes) {
      std::set<std::string> names;
      for (const Workload::DType& d : size.dtypes) names.insert(d.name);
      out += fmt::format("  {}:\n    Data types: {}\n{}", size.name, fmt::join(names, ", "),
                         scale_lines(size));
    }
    if (!gpu->note.empty()) out += fmt::format("  Note: {}\n", gpu->note);
  }
  if (out.empty()) return "No installed workloads found.\n";
  return fmt::format("Available workloads:\n{:=<50}\n{}\n", "", out);
}

}  // namespace nereus::recipe
