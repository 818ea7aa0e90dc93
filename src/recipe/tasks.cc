#include "recipe/tasks.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>

#include "base/check.h"
#include "base/text.h"
#include "recipe/command_output.h"

namespace nereus::recipe {
namespace {

bool contains(const std::vector<std::string>& list, const std::string& item) {
  return std::find(list.begin(), list.end(), item) != list.end();
}

// `as_given`: a number that is no int64_t is the nearest one.
void check_scale(const char* option, int64_t n, const std::string& as_given) {
  NEREUS_CHECK(kConfig, n >= 1 && n <= kMostGpus,
               "{} {}: a scale is a number of GPUs, 1 to {}; no layout has {}.", option, as_given,
               kMostGpus, n < 1 ? "fewer" : "more");
}

std::vector<int64_t> scales_of(const std::string& text) {
  std::vector<int64_t> out;
  for (const std::string& word : split_commas(text)) {
    char* end = nullptr;
    const int64_t n = std::strtoll(word.c_str(), &end, 10);
    NEREUS_CHECK(kConfig, !*end, "Invalid scale format '{}'. Scale must be a number.", word);
    check_scale("--scale", n, word);
    out.push_back(n);
  }
  return out;
}

void check_request(TaskRequest& r) {
  const bool discovery = r.max_scale || r.min_scale;
  NEREUS_CHECK(kConfig,
               r.file.empty() ||
                   (r.workload.empty() && r.size.empty() && r.dtype.empty() && r.scale.empty() &&
                    !discovery && !r.profile && !r.proxy && !r.exact_scales && r.repeats == 1),
               "Cannot mix --file with workload specifications\n"
               "Either use: nereus submit -f my-tests.yaml\n"
               "Or specify: nereus submit -w X -s Y -d Z --scale N\n"
               "A file has its own dtypes, scales, repeats, profile and proxy.");
  NEREUS_CHECK(kConfig, r.repeats >= 1 && r.repeats <= kMostRepeats,
               "--repeats {}: it must be 1 to {}.", r.repeats, kMostRepeats);
  if (r.max_scale) check_scale("--max-scale", *r.max_scale, std::to_string(*r.max_scale));
  r.size = lower(r.size);
  if (!r.size.empty()) {
    NEREUS_CHECK(kConfig, !r.workload.empty(), "--model-size requires --workload");
    NEREUS_CHECK(kConfig, split_commas(r.workload).size() == 1,
                 "Global '--model-size' / '-s' cannot be used with multiple workloads.\n\n"
                 "To target specific model sizes, append them to the workload name.\n"
                 "Workloads without a suffix will run ALL available sizes.");
    const auto [key, implied] = split_size(r.workload);
    NEREUS_CHECK(kConfig, implied.empty() || implied == r.size,
                 "Workload name implies size '{}' but --model-size is '{}'.\n"
                 "Use either: -w {} -s {}\n        or: -w {}",
                 implied, r.size, key, r.size, r.workload);
    if (!implied.empty()) r.workload = key;
  }
  NEREUS_CHECK(kConfig, r.scale.empty() || !discovery,
               "Cannot use --scale with --max-scale or --min-scale\n"
               "Either specify exact scale(s): --scale 128,256,512\n"
               "Or use discovery: --max-scale 512");
  NEREUS_CHECK(kConfig, !r.file.empty() || !r.scale.empty() || discovery,
               "Must specify scale parameter\n"
               "Either specify exact scale(s): --scale 128,256,512\n"
               "Or use discovery: --max-scale 512 or --min-scale");
  if (!r.force) return;
  const bool sized = !r.size.empty() || !split_size(r.workload).second.empty();
  NEREUS_CHECK(kConfig,
               r.file.empty() && !discovery && sized && !r.dtype.empty() &&
                   split_commas(r.workload).size() == 1 && split_commas(r.dtype).size() == 1 &&
                   split_commas(r.scale).size() == 1,
               "--force is only supported for a single explicit task.\n"
               "Use: nereus submit -w WORKLOAD -s MODEL_SIZE --dtype DTYPE --scale SCALE --force\n"
               "  or: nereus submit -w WORKLOAD_SIZE --dtype DTYPE --scale SCALE --force");
}

// The scales that are listed, up to the most asked for, and powers of two above them.
std::vector<int64_t> discovered_scales(const TaskRequest& r, const Workload::DType& dtype) {
  const std::vector<int64_t>& listed = r.proxy ? dtype.proxy_scales : dtype.scales;
  std::vector<int64_t> out;
  for (const int64_t n : listed)
    if (!r.max_scale || n <= *r.max_scale) out.push_back(n);
  if (r.min_scale && !out.empty()) return {out[0]};
  if (r.max_scale && !listed.empty() && !r.exact_scales && !dtype.exact_scales && !r.proxy)
    for (int64_t n = 1; n <= *r.max_scale; n *= 2)
      if (n > listed.back()) out.push_back(n);
  return out;
}

// One workload and size. `asked`: -w named it, so what it does not run at is the user's to know.
void add_tasks(const TaskRequest& r, const std::string& key, const Workload::Size& size, bool asked,
               std::vector<Task>& out) {
  const std::vector<std::string> wanted = split_commas(lower(r.dtype));
  std::vector<Workload::DType> dtypes;
  for (const Workload::DType& d : size.dtypes)
    if (wanted.empty() || contains(wanted, d.name)) dtypes.push_back(d);
  for (const std::string& name : wanted)
    if (asked && std::none_of(dtypes.begin(), dtypes.end(),
                              [&name](const auto& d) { return d.name == name; }))
      dtypes.push_back({name, {}, {}, false});
  for (const Workload::DType& dtype : dtypes) {
    std::vector<int64_t> scales =
        r.scale.empty() ? discovered_scales(r, dtype) : scales_of(r.scale);
    if (!asked && !r.scale.empty()) {
      const std::vector<int64_t>& listed = r.proxy ? dtype.proxy_scales : dtype.scales;
      std::erase_if(scales, [&](int64_t n) {
        const bool there = std::find(listed.begin(), listed.end(), n) != listed.end();
        return !there && (r.proxy || r.exact_scales || dtype.exact_scales || listed.empty() ||
                          n < listed.back());
      });
    }
    if (dtype.scales.empty() && scales.empty()) scales.push_back(0);  // the dtype is the error
    for (const int64_t scale : scales)
      for (int64_t i = 0; i < r.repeats; ++i)
        out.push_back({.workload = key,
                       .size = size.name,
                       .dtype = dtype.name,
                       .scale = scale,
                       .profile = r.profile,
                       .proxy = r.proxy});
  }
}

std::vector<Task> tasks_of(const TaskRequest& r, const Workloads& workloads,
                           const ClusterConfig& config) {
  std::vector<std::string> targets = split_commas(r.workload);
  const bool asked = !targets.empty();
  if (!asked) {
    for (const std::string& key : config.installed) {
      const auto it = workloads.find(key);
      if (it != workloads.end() && (it->second.type == "pretrain" || it->second.type == "finetune"))
        targets.push_back(key);
    }
  }
  std::vector<Task> out;
  for (const std::string& target : targets) {
    auto [key, size] = split_size(target);
    if (workloads.count(target)) std::tie(key, size) = std::pair(target, std::string());
    if (size.empty()) size = r.size;
    const auto it = workloads.find(key);
    const Workload::Gpu* gpu = it == workloads.end() ? nullptr : it->second.gpu(config.gpu_type);
    std::vector<Workload::Size> sizes;
    if (gpu)
      for (const Workload::Size& s : gpu->sizes)
        if (size.empty() || s.name == size) sizes.push_back(s);
    if (sizes.empty() && !asked) continue;
    if (sizes.empty()) {  // unknown: validation says what
      for (const int64_t scale : r.scale.empty() ? std::vector<int64_t>{0} : scales_of(r.scale))
        out.push_back({.workload = key,
                       .size = size,
                       .dtype = lower(r.dtype),
                       .scale = scale,
                       .profile = r.profile,
                       .proxy = r.proxy});
    }
    for (const Workload::Size& s : sizes) add_tasks(r, key, s, asked, out);
  }
  return out;
}

template <class Range>
std::string listed(const char* what, const Range& range) {
  return fmt::format("\n{}: {}", what, fmt::join(range, ", "));
}

std::optional<std::string> scale_problem(const Task& t, const Workload::DType& dtype, bool exact,
                                         std::vector<std::string>& warnings) {
  const std::string name = t.workload + "_" + t.size;
  const std::vector<int64_t>& scales = t.proxy ? dtype.proxy_scales : dtype.scales;
  if (t.proxy && scales.empty()) return fmt::format("No proxy scales defined for {}.", name);
  if (scales.empty() || std::find(scales.begin(), scales.end(), t.scale) != scales.end())
    return std::nullopt;
  exact = exact || t.proxy || dtype.exact_scales;
  if (!exact && t.scale > scales.back()) {
    warnings.push_back(
        fmt::format("Scale {} for {} exceeds maximum tested scale of {}. This "
                    "configuration has not been validated.",
                    t.scale, name, scales.back()));
    return std::nullopt;
  }
  if (!exact && t.scale < scales.front())
    return fmt::format("Scale {} is below minimum supported scale for {}.", t.scale, name) +
           listed("Supported scales", scales);
  return fmt::format("Scale {} not supported for {}.", t.scale, name) +
         listed("Supported scales", scales);
}

// What is wrong with a task, with what would be right.
std::optional<std::string> problem(const Task& t, const TaskRequest& r, const Workloads& workloads,
                                   const ClusterConfig& config,
                                   std::vector<std::string>& warnings) {
  const auto it = workloads.find(t.workload);
  if (it == workloads.end())
    return fmt::format("Workload '{}' not found.", t.workload) +
           listed("Available workloads", config.installed);
  if (!config.installed.empty() && !contains(config.installed, t.workload))
    return fmt::format("Workload '{}' is not installed on this cluster.", t.workload) +
           listed("Installed workloads", config.installed);
  const Workload& w = it->second;
  const Workload::Gpu* gpu = w.gpu(config.gpu_type);
  if (!gpu) {
    std::vector<std::string> types;
    for (const auto& item : w.gpus) types.push_back(item.first);
    return fmt::format("GPU type '{}' not supported for workload '{}'.", config.gpu_type,
                       t.workload) +
           listed("Supported GPU types", types);
  }
  const Workload::Size* size = w.size(config.gpu_type, t.size);
  if (!size) {
    std::vector<std::string> sizes;
    for (const Workload::Size& s : gpu->sizes) sizes.push_back(s.name);
    return fmt::format("Model size '{}' not supported for workload '{}' for GPU type '{}'.", t.size,
                       t.workload, config.gpu_type) +
           listed("Available model sizes", sizes);
  }
  if (r.force) return std::nullopt;
  const auto dtype = std::find_if(size->dtypes.begin(), size->dtypes.end(),
                                  [&t](const auto& d) { return d.name == t.dtype; });
  if (dtype == size->dtypes.end()) {
    std::vector<std::string> dtypes;
    for (const Workload::DType& d : size->dtypes) dtypes.push_back(d.name);
    return fmt::format("Data type '{}' not supported for {}_{}.", t.dtype, t.workload, t.size) +
           listed("Supported data types", dtypes);
  }
  return scale_problem(t, *dtype, r.exact_scales, warnings);
}

std::string indented(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '\n' ? std::string("\n     ") : std::string(1, c);
  return out;
}

}  // namespace

std::vector<std::string> split_commas(const std::string& text) {
  std::vector<std::string> out;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string item = trimmed(std::string_view(text).substr(begin, end - begin));
    if (!item.empty()) out.push_back(item);
    begin = end + 1;
  }
  return out;
}

void check_variable(const std::string& key, const std::string& value, const std::string& source) {
  constexpr const char* kLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
  constexpr const char* kNames = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789";
  constexpr const char* kValues =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";
  NEREUS_CHECK(kConfig, !key.empty(), "{} must include a non-empty variable name.", source);
  NEREUS_CHECK(
      kConfig,
      key.find_first_of(kLetters) == 0 && key.find_first_not_of(kNames) == std::string::npos,
      "{} variable name '{}' is invalid. Use shell-style environment variable names only.", source,
      key);
  NEREUS_CHECK(kConfig, value.find_first_not_of(kValues) == std::string::npos,
               "Env value for '{}' contains shell-special characters, which are not supported. Use "
               "only characters matching [A-Za-z0-9_@%+=:,./-].",
               key);
}

bool is_secret(const std::string& variable) {
  const std::string name = lower(variable);
  return name.ends_with("token") || name.ends_with("key") || name.ends_with("secret") ||
         name.ends_with("password");
}

Variables masked(Variables variables) {
  for (auto& [name, value] : variables)
    if (is_secret(name)) value = "...";
  return variables;
}

Variables parse_environment(const std::vector<std::string>& words) {
  Variables out;
  for (const std::string& word : words) {
    const size_t at = word.find('=');
    NEREUS_CHECK(kConfig, at != std::string::npos, "`--env` must be in `KEY=value` form, not `{}`.",
                 word);
    const std::string key = word.substr(0, at), value = word.substr(at + 1);
    check_variable(key, value, "`--env`");
    NEREUS_CHECK(kConfig, out.emplace(key, value).second,
                 "Duplicate environment variable '{}' was specified more than once.", key);
  }
  return out;
}

std::string describe(const Task& t, const std::string& prefix, const std::string& suffix) {
  const auto list = [](const Variables& values) {
    std::string out;
    for (const auto& [key, value] : masked(values))
      out += fmt::format("{}{}={}", out.empty() ? "" : " ", key, quoted(value));
    return out;
  };
  std::string out =
      fmt::format("{}{}_{} dtype={} scale={}", prefix, t.workload, t.size, t.dtype, t.scale);
  if (t.profile) out += " profile=yes";
  if (t.proxy) out += " proxy=yes";
  if (!t.environment.empty()) out += fmt::format(" env=({})", list(t.environment));
  if (!t.parameters.empty()) out += fmt::format(" params=({})", list(t.parameters));
  if (!suffix.empty()) out += " " + suffix;
  return out;
}

TaskList make_tasks(const TaskRequest& asked, const Workloads& workloads,
                    const ClusterConfig& config) {
  TaskRequest r = asked;
  check_request(r);
  std::vector<Task> all = r.file.empty() ? tasks_of(r, workloads, config) : read_tasks(r.file);
  for (Task& t : all)
    for (const auto& [key, value] : r.environment) t.environment[key] = value;
  NEREUS_CHECK(kConfig, !all.empty(), "No matching job configurations found.\n{}",
               r.file.empty() ? "`nereus list` shows what there is."
                              : r.file + ": it needs at least one entry under 'tasks:'.");
  std::stable_sort(all.begin(), all.end(),
                   [](const Task& a, const Task& b) { return a.scale > b.scale; });

  TaskList out;
  if (r.force) out.warnings.push_back("--force: data type, scale and memory are not checked.");
  struct Problem {
    Task first;
    std::string text;
    size_t count = 0;
  };
  std::vector<Problem> problems;
  for (const Task& t : all) {
    std::vector<std::string> warnings;
    const std::optional<std::string> text = problem(t, r, workloads, config, warnings);
    if (!text) {
      out.tasks.push_back(t);
      for (const std::string& w : warnings)
        if (!contains(out.warnings, w)) out.warnings.push_back(w);
      continue;
    }
    auto it = std::find_if(problems.begin(), problems.end(),
                           [&text](const Problem& p) { return p.text == *text; });
    if (it == problems.end()) it = problems.insert(it, {t, *text});
    ++it->count;
  }
  if (problems.empty()) return out;
  out.dropped = fmt::format(
      "Validation failed for {} out of {} tasks:", all.size() - out.tasks.size(), all.size());
  for (const Problem& p : problems)
    out.dropped += fmt::format("\n  {}x {}_{} (dtype={}): {}", p.count, p.first.workload,
                               p.first.size, p.first.dtype, indented(p.text));
  NEREUS_CHECK(kConfig, !out.tasks.empty(), "{}\nNo valid task is left: nothing is submitted.",
               out.dropped);
  out.warnings.push_back(
      fmt::format("{} of {} tasks are valid and are submitted.", out.tasks.size(), all.size()));
  return out;
}

}  // namespace nereus::recipe
