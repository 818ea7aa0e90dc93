#include "report/run_files.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/check.h"
#include "base/files.h"
#include "base/text.h"
#include "config/load.h"
#include "config/model_args.h"
#include "config/model_flops.h"
#include "report/json_lines.h"
#include "report/lines.h"

namespace nereus::report {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// {"1": [..], "2": [..]} -> the lists one behind the other, by layer.
bool lists_of(const json& object, std::vector<int64_t>& layers, std::vector<float>& values) {
  if (!object.is_object() || object.empty()) return false;
  std::vector<std::pair<int64_t, const json*>> sorted;
  for (const auto& [key, list] : object.items()) {
    if (!list.is_array()) return false;
    sorted.emplace_back(std::strtoll(key.c_str(), nullptr, 10), &list);
  }
  std::sort(sorted.begin(), sorted.end());
  layers.clear();
  values.clear();
  for (const auto& [layer, list] : sorted) {
    if (list->empty() || list->size() != sorted.front().second->size()) return false;
    layers.push_back(layer);
    for (const json& x : *list) values.push_back(x.is_number() ? x.get<float>() : 0.0F);
  }
  return true;
}

// Counts over their layer's mean.
void over_mean(std::vector<float>& counts, size_t experts) {
  for (size_t at = 0; at + experts <= counts.size(); at += experts) {
    double sum = 0;
    for (size_t e = 0; e < experts; ++e) sum += static_cast<double>(counts[at + e]);
    const double mean = sum / static_cast<double>(experts);
    for (size_t e = 0; e < experts; ++e)
      counts[at + e] =
          mean > 0 ? static_cast<float>(static_cast<double>(counts[at + e]) / mean) : 0;
  }
}

// Where a comment begins that is not in a text: `a = "x # y"  # origin`.
size_t comment_at(std::string_view line) {
  char quote = 0;
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quote != 0) {
      if (c == '\\' && quote == '"')
        ++i;
      else if (c == quote)
        quote = 0;
    } else if (c == '"' || c == '\'') {
      quote = c;
    } else if (c == '#') {
      return i;
    }
  }
  return std::string_view::npos;
}

// Forward once more in backward, as a share of what forward and backward compute; NaN: not known.
double recompute_share(const JobConfig& config) {
  switch (config.activation_checkpoint.mode) {
    case RecomputeMode::none:
      return 0;
    case RecomputeMode::full:
      return 1.0 / 3;
    default:
      return kUnknown;
  }
}

// [{"time": seconds, "live": {"kept": bytes, ...}}, ...]: of many moments those in which most is in
// use.
void read_use(const json& series, Memory& m) {
  constexpr size_t kMost = 800;
  m.times.clear();
  m.use.clear();
  if (!series.is_array()) return;
  const size_t stride = series.size() / kMost + 1;
  for (size_t begin = 0; begin < series.size(); begin += stride) {
    const json* most = nullptr;
    double bytes = -1;
    for (size_t i = begin; i < std::min(series.size(), begin + stride); ++i) {
      const json& at = series[i];
      if (!at.is_object() || !at.value("time", json()).is_number()) continue;
      double sum = 0;
      const json live = at.value("live", json::object());
      for (const auto& [name, x] : live.items()) sum += x.is_number() ? x.get<double>() : 0;
      if (sum > bytes) most = &at;
      bytes = std::max(bytes, sum);
    }
    if (most == nullptr) continue;
    const json live = most->value("live", json::object());
    if (m.use.empty())
      for (const auto& [name, x] : live.items()) m.use.emplace_back(name, std::vector<double>());
    m.times.push_back(most->at("time").get<double>());
    for (auto& [name, values] : m.use) {
      const json x = live.value(name, json());
      values.push_back(x.is_number() ? x.get<double>() : 0);
    }
  }
}

void learn_from(const std::string& text, const std::string& path, Run& run) {
  LoadedConfig loaded;
  try {
    read_toml(text, path, loaded);
    const JobConfig& c = loaded.config;
    run.total_steps = c.training.steps;
    run.description = c.job.description;
    run.model = c.model.name + " " + c.model.flavor;
    const ModelArgs args = resolve_model_args(c);
    const FlopsPerToken flops = flops_per_token(args, c.training.seq_len);
    const auto torchtitan = static_cast<double>(flops.torchtitan);
    run.flops.non_causal = static_cast<double>(flops.non_causal) / torchtitan;
    run.flops.causal = static_cast<double>(flops.causal) / torchtitan;
    run.flops.recompute = 1 + recompute_share(c);
  } catch (const Error&) {
    // An older program's keys, or a model whose files are gone: its settings are shown even so.
  }
}

}  // namespace

void read_settings(const std::string& path, Run& run) {
  FileLines lines(path);
  std::string section, text;
  for (std::string_view raw; lines.next(raw);) {
    text.append(raw).append("\n");
    const std::string line = trimmed(raw);
    if (line.starts_with('[') && line.find('=') == std::string::npos) {
      section = trimmed(line.substr(0, comment_at(line)), " \t[]");
      continue;
    }
    // An optional key without a value is a comment: "# hf_config = None  # default".
    const bool none = line.starts_with("# ") && line.find(" = None") != std::string::npos;
    const std::string body = none ? line.substr(2) : line;
    const size_t equals = body.find('='), mark = comment_at(body);
    if (equals == std::string::npos || equals > mark) continue;
    run.settings.push_back({section + "." + trimmed(body.substr(0, equals)),
                            trimmed(std::string_view(body).substr(equals + 1, mark - equals - 1)),
                            mark == std::string::npos ? "" : trimmed(body.substr(mark + 1))});
  }
  learn_from(text, path, run);
}

void read_experts(const std::string& path, Run& run, size_t most) {
  JsonLines lines(path);
  Experts& out = run.experts;
  int64_t n = 0, stride = 1;
  bool other_shape = false;
  const auto take = [&](std::string_view text, int64_t step) {
    const json line = json::parse(text, nullptr, false);
    Experts::Sample sample{.step = step, .load = {}, .bias = {}};
    std::vector<int64_t> layers;
    if (!lists_of(line.value("counts", json()), layers, sample.load)) return;
    const auto experts = static_cast<int64_t>(sample.load.size() / layers.size());
    if (out.samples.empty()) {
      out.layers = layers;
      out.experts = experts;
    } else if (layers != out.layers || experts != out.experts) {
      other_shape = true;
      return;
    }
    over_mean(sample.load, static_cast<size_t>(experts));
    if (!lists_of(line.value("bias", json()), layers, sample.bias) ||
        sample.bias.size() != sample.load.size())
      sample.bias.clear();
    out.samples.push_back(std::move(sample));
  };
  std::string passed;  // the last line that was
  int64_t passed_step = 0;
  for (std::vector<JsonField> fields; lines.next(fields);) {
    int64_t step = 0;
    for (const JsonField& f : fields)
      if (f.key == "step") step = static_cast<int64_t>(f.number);
    while (!out.samples.empty() && out.samples.back().step >= step) out.samples.pop_back();
    passed.clear();
    if (n++ % stride != 0) {
      passed = lines.line();
      passed_step = step;
      continue;
    }
    take(lines.line(), step);
    if (out.samples.size() < 2 * most) continue;
    for (size_t i = 1; i < most; ++i) out.samples[i] = std::move(out.samples[2 * i]);
    out.samples.resize(most);
    stride *= 2;
  }
  if (!passed.empty()) take(passed, passed_step);
  if (other_shape) run.notes.push_back("experts.jsonl: lines of another model are left out.");
}

void read_memory(const std::string& folder, Run& run) {
  std::error_code error;
  int64_t last = -1;
  fs::path newest;
  for (const auto& entry : entries_of(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("iteration_")) continue;
    const int64_t n = std::strtoll(name.c_str() + 10, nullptr, 10);
    if (n > last) {
      last = n;
      newest = entry.path();
    }
  }
  if (last < 0) return;
  Memory& m = run.memory;
  m.source = newest.filename().string();
  int lowest = 0;
  for (const auto& entry : entries_of(newest, error)) {
    const std::string name = entry.path().filename().string();
    int rank = 0;
    if (std::sscanf(name.c_str(), "rank%d_memory_snapshot.json", &rank) != 1 ||
        !name.ends_with(".json"))
      continue;
    std::ifstream in(entry.path());
    const json snapshot = json::parse(in, nullptr, false);
    const json owners = snapshot.is_object() ? snapshot.value("owners", json()) : json();
    if (!owners.is_array()) {
      run.notes.push_back(fmt::format("{}: no memory snapshot; left out.", name));
      continue;
    }
    Memory::Rank r{.rank = rank, .owners = {}};
    for (const json& row : owners)
      if (row.is_object() && row.value("bytes", json()).is_number())
        r.owners.push_back({row.value("owner", std::string("?")), row["bytes"].get<double>()});
    if (m.ranks.empty() || rank < lowest) {
      lowest = rank;
      read_use(snapshot.value("series", json()), m);
    }
    m.ranks.push_back(std::move(r));
  }
  std::sort(m.ranks.begin(), m.ranks.end(),
            [](const Memory::Rank& a, const Memory::Rank& b) { return a.rank < b.rank; });
}

}  // namespace nereus::report
