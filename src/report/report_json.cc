#include "report/report_json.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "report/goodput.h"

namespace nereus::report {
namespace {

using nlohmann::ordered_json;

constexpr const char* kSources[] = {"nereus", "torchtitan", "tensorboard"};

// JSON has no NaN and no infinity.
ordered_json number(double x) { return std::isfinite(x) ? ordered_json(x) : ordered_json(nullptr); }
ordered_json whole(double x) {
  return std::isfinite(x) ? ordered_json(std::llround(x)) : ordered_json(nullptr);
}
double first_of(const Samples* s) { return s == nullptr ? kUnknown : s->first().y; }

ordered_json json_of(const Spread& s) {
  return {{"mean", number(s.mean)},
          {"median", number(s.median)},
          {"stddev", number(s.stddev)},
          {"lines", s.count}};
}

ordered_json json_of(const TimeParts& p) {
  ordered_json out;
  for (const TimeParts::Part& part : TimeParts::parts()) out[part.name] = number(p.*part.seconds);
  return out;
}

ordered_json starts_of(const Run& run, const Goodput& good) {
  ordered_json out = ordered_json::array();
  for (size_t i = 0; i < run.starts.size(); ++i) {
    const Start& s = run.starts[i];
    ordered_json row = {{"first", s.first},     {"last", s.last},   {"begin", number(s.begin)},
                        {"end", number(s.end)}, {"ended", s.ended}, {"again_steps", s.again_steps},
                        {"reruns", s.reruns}};
    row["seconds"] = json_of(good.starts[i]);
    out.push_back(std::move(row));
  }
  return out;
}

ordered_json summary_of(const Run& run, std::optional<Window> window) {
  const Measure m = measure(run, window);
  const Goodput good = goodput(run);
  const Samples* const loss = run.find("loss");
  const Samples* const validation = run.find("validation_loss");
  const Samples* const memory = run.find("memory_gib");
  ordered_json out = {{"path", run.path},
                      {"name", run.name},
                      {"source", kSources[static_cast<size_t>(run.source)]},
                      {"description", run.description},
                      {"model", run.model},
                      {"steps", run.steps},
                      {"total_steps", run.total_steps},
                      {"completed", run.completed}};
  out["loss_first"] = number(run.loss_first);
  out["loss_last"] = number(run.last("loss"));
  out["loss_lowest"] = number(loss == nullptr ? kUnknown : loss->low());
  out["validation_loss_first"] = number(first_of(validation));
  out["validation_loss_last"] = number(run.last("validation_loss"));
  out["grad_norm_last"] = number(run.last("grad_norm"));
  out["ranks"] = whole(run.ranks);
  out["tokens_per_step"] = whole(run.tokens_per_step);
  out["window"] = {m.window.first, m.window.second};
  out["tokens_per_second"] = json_of(m.tokens_per_second);
  out["tokens_per_second_per_gpu"] = number(m.tokens_per_second_per_gpu.mean);
  out["step_seconds"] = json_of(m.step_seconds);
  for (size_t i = 0; i < m.tflops.size(); ++i) {
    out["tflops"][Measure::kConventions[i]] = number(m.tflops[i]);
    out["mfu"][Measure::kConventions[i]] = number(m.mfu[i]);
  }
  out["peak_flops"] = number(run.peak_flops);
  out["memory_peak_gib"] = number(memory == nullptr ? kUnknown : memory->high());
  out["goodput"] = {{"share", number(good.share())},
                    {"wall_seconds", number(good.all.total())},
                    {"by_clock", good.by_clock},
                    {"seconds", json_of(good.all)}};
  out["starts"] = starts_of(run, good);
  out["events"] =
      run.event_counts.empty() ? ordered_json::object() : ordered_json(run.event_counts);
  out["notes"] = run.notes;
  return out;
}

ordered_json json_of(const Comparison& c) {
  ordered_json out = {{"models_differ", c.models_differ}};
  out["settings"] = ordered_json::array();
  for (const Comparison::Row& row : c.settings)
    out["settings"].push_back({{"key", row.key}, {"values", row.values}});
  out["pairs"] = ordered_json::array();
  const auto step = [](int64_t s) { return s < 0 ? ordered_json(nullptr) : ordered_json(s); };
  for (const Comparison::Pair& p : c.pairs)
    out["pairs"].push_back({{"common_steps", p.common},
                            {"first_step", step(p.first_step)},
                            {"losses", {number(p.loss_a), number(p.loss_b)}},
                            {"one_percent_step", step(p.one_percent)},
                            {"grad_norm_step", step(p.norm_step)},
                            {"largest", number(p.largest)},
                            {"largest_step", step(p.largest_step)}});
  return out;
}

// As JSON in a page: text of a run may hold any bytes, and "</script>".
std::string dump(const ordered_json& json) {
  const std::string text = json.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  std::string out;
  out.reserve(text.size());
  for (const char c : text)
    if (c == '<')
      out += "\\u003c";
    else
      out += c;
  return out;
}

void append(std::string& out, double x) {
  if (std::isfinite(x))
    fmt::format_to(std::back_inserter(out), "{:.6g}", x);
  else
    out += "null";
}

// [[x, and how much each next one is further], [y]]
void append_points(std::string& out, const std::vector<Point>& points) {
  out += "[[";
  double before = 0;
  for (const Point& p : points) {
    if (&p != points.data()) out += ',';
    fmt::format_to(std::back_inserter(out), "{}", static_cast<int64_t>(p.x - before));
    before = p.x;
  }
  out += "],[";
  for (const Point& p : points) {
    if (&p != points.data()) out += ',';
    append(out, p.y);
  }
  out += "]]";
}

void append_series(std::string& out, const Run& run, size_t points) {
  out += "\"series\":{";
  bool first = true;
  for (const auto& [name, samples] : run.series) {
    if (samples.empty()) continue;
    out += (first ? "" : ",") + dump(name) + ":{\"p\":";
    first = false;
    append_points(out, samples.points(points));
    if (const std::vector<Point> means = samples.means(points); !means.empty()) {
      out += ",\"m\":";
      append_points(out, means);
    }
    out += '}';
  }
  out += '}';
}

// A byte a value, in base64: the page draws them, and says exact ones elsewhere.
std::string base64(const std::vector<uint8_t>& bytes) {
  constexpr const char* kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const auto at = [&](size_t k) { return k < bytes.size() ? uint32_t{bytes[k]} : 0U; };
    const uint32_t three = at(i) << 16 | at(i + 1) << 8 | at(i + 2);
    for (size_t k = 0; k < 4; ++k)
      out += i + k <= bytes.size() ? kDigits[three >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

constexpr double kLoadUnit = 1.0 / 32;  // loads up to 255 / 32 = 8 of an even share

ordered_json json_of(const Experts& e, size_t bytes) {
  ordered_json out = {{"layers", e.layers}, {"experts", e.experts}, {"unit", kLoadUnit}};
  out["samples"] = ordered_json::array();
  const bool biased = !e.samples.empty() && !e.samples.front().bias.empty();
  float low = 0, high = 0;
  for (const Experts::Sample& s : e.samples)
    for (const float b : s.bias) {
      low = std::min(low, b);
      high = std::max(high, b);
    }
  out["bias"] = {low, high};
  // Of every sample, while whole ones are as many as there is room for.
  out["busiest"] = {{"steps", ordered_json::array()}, {"load", ordered_json::array()}};
  for (const Experts::Sample& s : e.samples) {
    ordered_json layers = ordered_json::array();
    for (size_t at = 0; at < s.load.size(); at += static_cast<size_t>(e.experts)) {
      const float* const first = s.load.data() + at;
      const float most = *std::max_element(first, first + e.experts);
      layers.push_back(std::round(100 * static_cast<double>(most)) / 100);
    }
    out["busiest"]["steps"].push_back(s.step);
    out["busiest"]["load"].push_back(std::move(layers));
  }
  const size_t each = e.layers.size() * static_cast<size_t>(e.experts) * 4 / 3 * (biased ? 2 : 1);
  const size_t most = std::max<size_t>(2, bytes / std::max<size_t>(1, each));
  const size_t n = e.samples.size(), stride = (n + most - 1) / most;
  for (size_t i = 0; i < n; ++i) {
    if ((n - 1 - i) % stride != 0) continue;  // the last one is there
    const Experts::Sample& s = e.samples[i];
    std::vector<uint8_t> load, bias;
    for (const float x : s.load)
      load.push_back(static_cast<uint8_t>(
          std::clamp(std::lround(static_cast<double>(x) / kLoadUnit), 0L, 255L)));
    for (const float x : s.bias)
      bias.push_back(high > low ? static_cast<uint8_t>(std::lround(255 * (x - low) / (high - low)))
                                : uint8_t{0});
    out["samples"].push_back({{"step", s.step}, {"load", base64(load)}, {"bias", base64(bias)}});
  }
  return out;
}

ordered_json json_of(const Memory& m) {
  ordered_json out = {{"source", m.source}, {"times", m.times}};
  out["ranks"] = ordered_json::array();
  for (const Memory::Rank& r : m.ranks) {
    ordered_json rows = ordered_json::array();
    for (const Memory::Owner& o : r.owners) rows.push_back({o.name, o.bytes});
    out["ranks"].push_back({{"rank", r.rank}, {"owners", std::move(rows)}});
  }
  out["use"] = ordered_json::array();
  for (const auto& [name, values] : m.use) out["use"].push_back({name, values});
  return out;
}

ordered_json details_of(const Run& run, size_t expert_bytes) {
  ordered_json out;
  out["environment"] = run.environment;
  out["settings"] = ordered_json::array();
  for (const Setting& s : run.settings) out["settings"].push_back({s.key, s.value, s.origin});
  out["events"] = ordered_json::array();
  for (const Event& e : run.events)
    out["events"].push_back({number(e.time), e.step ? ordered_json(*e.step) : ordered_json(nullptr),
                             e.kind, e.text.substr(0, 2000), number(e.seconds)});
  if (!run.experts.samples.empty()) out["experts"] = json_of(run.experts, expert_bytes);
  if (!run.memory.ranks.empty()) out["memory"] = json_of(run.memory);
  out["flops"] = {number(run.flops.non_causal), number(run.flops.causal),
                  number(run.flops.recompute)};
  return out;
}

}  // namespace

std::string summary_json(const std::vector<Run>& runs, std::optional<Window> window) {
  ordered_json out;
  out["runs"] = ordered_json::array();
  for (const Run& run : runs) out["runs"].push_back(summary_of(run, window));
  if (runs.size() > 1) out["comparison"] = json_of(compare(runs));
  return out.dump(2, ' ', false, ordered_json::error_handler_t::replace);
}

std::string page_data(const std::vector<Run>& runs, std::optional<Window> window,
                      size_t curve_bytes) {
  constexpr size_t kExpertBytes = 400'000, kPointBytes = 12;
  constexpr size_t kFewest = 200, kMost = 4000;
  size_t curves = 0;
  for (const Run& run : runs) curves += run.series.size();
  const size_t points =
      std::clamp(curve_bytes / kPointBytes / std::max<size_t>(1, curves), kFewest, kMost);
  std::string out = "{\"runs\":[";
  for (const Run& run : runs) {
    if (&run != runs.data()) out += ',';
    out += "{\"summary\":" + dump(summary_of(run, window)) + ",\"details\":";
    out += dump(details_of(run, kExpertBytes / runs.size())) + ',';
    append_series(out, run, points);
    out += '}';
  }
  ordered_json parts;
  for (const TimeParts::Part& p : TimeParts::parts()) parts.push_back({p.name, p.label});
  out += "],\"time_parts\":" + dump(parts);
  return out + ",\"comparison\":" + dump(json_of(compare(runs))) + "}";
}

}  // namespace nereus::report
