#include "observe/jsonl_sinks.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace nereus {
namespace {

using nlohmann::ordered_json;

// JSON has no NaN and no infinity.
ordered_json number(double x) { return std::isfinite(x) ? ordered_json(x) : ordered_json(nullptr); }

// A bias has six digits; more would double the file.
ordered_json number(float x) { return number(std::stod(fmt::format("{:.6g}", x))); }

// Text of the log may hold any bytes.
std::string dump(const ordered_json& json) {
  return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace

void MetricsFileSink::step(const StepMetrics& m) {
  ordered_json json;
  for (const MetricField& f : step_fields()) {
    if (f.name == nullptr) continue;
    const MetricField::Value value = f.value(m);
    if (const auto* n = std::get_if<int64_t>(&value)) {
      json[f.name] = *n;
    } else if (const auto* x = std::get_if<double>(&value)) {
      json[f.name] = number(*x);
    } else {
      json[f.name] = nullptr;
    }
  }
  file_.write_line(dump(json));
}

void MetricsFileSink::validation(const ValidationMetrics& m) {
  ordered_json json;
  json["step"] = m.step;
  json["validation_loss"] = number(m.loss);
  file_.write_line(dump(json));
}

void ExpertsFileSink::experts(int64_t step, double, const ExpertTable& table) {
  ordered_json json;
  json["step"] = step;
  for (size_t i = 0; i < table.layers.size(); ++i) {
    const std::string layer = std::to_string(table.layers[i]);
    json["counts"][layer] = table.counts_of(i);
    if (!table.bias.empty())
      for (const float b : table.bias_of(i)) json["bias"][layer].push_back(number(b));
    if (!table.routers.empty()) {
      const RouterFigures& r = table.routers[i];
      json["router"][layer] = {
          {"z_loss", number(r.z_loss)}, {"lse", number(r.lse)}, {"logit_max", number(r.logit_max)}};
    }
  }
  file_.write_line(dump(json));
}

void EventsFileSink::event(const RunEvent& e) {
  ordered_json json;
  json["time"] = number(e.time);
  json["step"] = e.step;
  json["kind"] = word(e.kind);
  json["text"] = e.text;
  for (const auto& [name, value] : e.facts)
    std::visit(
        [&, name = name](const auto& v) {
          if constexpr (std::is_same_v<std::decay_t<decltype(v)>, double>)
            json[name] = number(v);
          else
            json[name] = v;
        },
        value);
  file_.write_line(dump(json));
}

}  // namespace nereus
