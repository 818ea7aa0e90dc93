// Files of tasks: YAML with all options, and lines of Python tuples.
#include <fstream>

#include "base/text.h"
#include "recipe/tasks.h"
#include "recipe/yaml.h"

namespace nereus::recipe {
namespace {

// A task's setting: its own, else its header's, else the default.
struct Level {
  const YamlFile& file;
  const YAML::Node& task;
  const YAML::Node& header;

  YAML::Node find(const char* key) const { return task[key].IsDefined() ? task[key] : header[key]; }
  std::vector<std::string> list(const char* key) const {
    const YAML::Node& from = task[key].IsDefined() ? task : header;
    std::vector<std::string> out = file.texts(from, "", key);
    if (out.empty()) file.fail(task, fmt::format("Missing required field '{}' in task.", key));
    return out;
  }
  bool flag(const char* key) const {
    const YAML::Node node = find(key);
    if (!node.IsDefined() || node.IsNull()) return false;
    bool value = false;
    if (!node.IsScalar() || !YAML::convert<bool>::decode(node, value))
      file.fail(node, fmt::format("{} must be true or false.", key));
    return value;
  }
  int64_t number(const YAML::Node& node, const char* key, int64_t most) const {
    int64_t value = 0;
    if (!node.IsScalar() || !YAML::convert<int64_t>::decode(node, value) || value < 1 ||
        value > most)
      file.fail(node, fmt::format("{} must be whole numbers, 1 to {}.", key, most));
    return value;
  }
  std::vector<int64_t> scales() const {
    const YAML::Node node = find("scales");
    list("scales");  // there, and a value or a list of them
    std::vector<int64_t> out;
    if (node.IsScalar()) return {number(node, "scales", kMostGpus)};
    for (const YAML::Node& item : node) out.push_back(number(item, "scales", kMostGpus));
    return out;
  }
};

// A file's params: those with a list of values are swept, every combination a set of its own.
std::vector<Variables> sweep(const YamlFile& file, const YAML::Node& params, Variables base) {
  std::vector<Variables> out{std::move(base)};
  for (const auto& item : params) {
    const std::string key = item.first.Scalar();
    const std::vector<std::string> values = file.texts(params, "params", key);
    std::vector<Variables> more;
    for (const Variables& one : out) {
      for (const std::string& value : values) {
        more.push_back(one);
        more.back()[key] = value;
      }
    }
    out = std::move(more);
  }
  return out;
}

void add_yaml_task(const Level& at, const Task& base, const YAML::Node& defaults,
                   std::vector<Task>& out) {
  const YamlFile& file = at.file;
  if (at.flag("profile") && at.flag("add_profile"))
    file.fail(at.task, "Cannot specify both 'profile' and 'add_profile' in the same task");
  const YAML::Node overrides = file.map(at.task, "", "overrides");
  Task one = base;
  one.environment = file.strings(defaults, "defaults", "env");
  for (const auto& [key, value] : file.strings(overrides, "overrides", "env"))
    one.environment[key] = value;
  for (const auto& [key, value] : one.environment) {
    try {
      check_variable(key, value, "YAML env");
    } catch (const Error& e) {
      file.fail(at.task, e.what());
    }
  }
  one.profile = at.flag("profile");
  one.proxy = at.flag("proxy");
  const YAML::Node repeats = at.find("repeats");
  const int64_t times = repeats.IsDefined() ? at.number(repeats, "repeats", kMostRepeats) : 1;
  for (const Variables& parameters : sweep(file, file.map(overrides, "overrides", "params"),
                                           file.strings(defaults, "defaults", "params"))) {
    one.parameters = parameters;
    for (const std::string& dtype : at.list("dtypes")) {
      for (const int64_t scale : at.scales()) {
        one.dtype = dtype;
        one.scale = scale;
        for (int64_t i = 0; i < times; ++i) out.push_back(one);
        if (at.flag("add_profile")) {
          out.push_back(one);
          out.back().profile = true;
        }
      }
    }
  }
}

std::vector<Task> read_yaml(const std::string& path) {
  const YamlFile file(path, "file of tasks");
  std::vector<Task> out;
  for (const auto& item : file.root()) {
    const std::string header = item.first.Scalar();
    Task base;
    std::tie(base.workload, base.size) = split_size(header);
    if (base.size.empty())
      file.fail(item.first, fmt::format("Invalid YAML header: '{}'\nMissing or invalid model size "
                                        "suffix.\nExpected format: workload_modelsize, as in "
                                        "pretrain_deepseek-v3-torchtitan_671b:",
                                        header));
    const YAML::Node spec = file.map(file.root(), "", header);
    const YAML::Node tasks = spec["tasks"];
    if (!tasks.IsDefined() || tasks.IsNull()) continue;
    if (!tasks.IsSequence()) file.fail(tasks, header + ".tasks must be a list.");
    for (const YAML::Node& task : tasks) {
      if (!task.IsMap()) file.fail(task, header + ".tasks must be a list of maps.");
      add_yaml_task({file, task, spec}, base, file.map(spec, header, "defaults"), out);
    }
  }
  return out;
}

// pretrain_x_671b:
// ('bf16', [512, 1024], 3)      # data types, scales, repeats; then True for a profile
std::vector<Task> read_text(const std::string& path) {
  std::ifstream in(path);
  NEREUS_CHECK(kConfig, in.good(), "{}: the file of tasks cannot be read.", path);
  std::vector<Task> out;
  Task base;
  std::string line;
  for (int number = 1; std::getline(in, line); ++number) {
    line = trimmed(line, " \t\r");
    if (line.empty() || line[0] == '#') continue;
    if (line.back() == ':') {
      std::tie(base.workload, base.size) = split_size(line.substr(0, line.size() - 1));
      NEREUS_CHECK(kConfig, !base.size.empty(),
                   "{}:{}: Invalid header '{}': expected workload_modelsize:", path, number, line);
      continue;
    }
    NEREUS_CHECK(kConfig, !base.size.empty(),
                 "{}:{}: a task before any workload: write \"workload_modelsize:\" above it.", path,
                 number);
    std::string list = line;  // a tuple in Python's words is a list in YAML's
    for (char& c : list) c = c == '(' ? '[' : c == ')' ? ']' : c;
    try {
      const YAML::Node tuple = YAML::Load(list);
      const auto values = [](const YAML::Node& node) {
        return node.IsSequence() ? node.as<std::vector<std::string>>()
                                 : std::vector<std::string>{node.as<std::string>()};
      };
      if (!tuple.IsSequence() || tuple.size() < 3 || tuple.size() > 4)
        throw YAML::Exception(YAML::Mark::null_mark(), "three or four values");
      base.profile = tuple.size() == 4 && tuple[3].as<bool>();
      for (const std::string& dtype : values(tuple[0])) {
        for (const std::string& scale : values(tuple[1])) {
          base.dtype = dtype;
          base.scale = YAML::Load(scale).as<int64_t>();
          const auto times = tuple[2].as<int64_t>();
          NEREUS_CHECK(
              kConfig,
              base.scale >= 1 && base.scale <= kMostGpus && times >= 1 && times <= kMostRepeats,
              "{}:{}: scales must be whole numbers, 1 to {}, and repeats 1 to {}: {}", path, number,
              kMostGpus, kMostRepeats, line);
          out.insert(out.end(), static_cast<size_t>(times), base);
        }
      }
    } catch (const YAML::Exception&) {
      NEREUS_FAIL(kConfig,
                  "{}:{}: Invalid task format: {}\nExpected (dtypes, scales, repeats) or (dtypes, "
                  "scales, repeats, profile), as in ('bf16', [512, 1024], 3, True)",
                  path, number, line);
    }
  }
  return out;
}

}  // namespace

std::vector<Task> read_tasks(const std::string& path) {
  return path.ends_with(".yaml") || path.ends_with(".yml") ? read_yaml(path) : read_text(path);
}

}  // namespace nereus::recipe
