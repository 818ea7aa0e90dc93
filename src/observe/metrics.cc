#include "observe/metrics.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/check.h"

namespace nereus {
namespace {

using M = StepMetrics;
using Value = MetricField::Value;

template <class T>
Value known(const std::optional<T>& x) {
  return x ? Value(double{*x}) : Value(std::monostate());
}

// Of the experts, where there are any.
template <auto kMember>
Value of_experts(const M& m) {
  if (!m.experts) return {};
  const auto& x = (*m.experts).*kMember;
  if constexpr (requires { x.has_value(); })
    return known(x);
  else
    return x;
}
using E = ExpertFigures;

constexpr std::array kFields{
    MetricField{"step", [](const M& m) -> Value { return m.step; }, 1, "\033[31m",
                [](const M& m) { return fmt::format("step: {:2}", m.step); }},
    MetricField{"loss", [](const M& m) -> Value { return m.loss; }, 2, "\033[32m",
                [](const M& m) { return fmt::format("loss: {:7.4f}", m.loss); }},
    MetricField{"grad_norm", [](const M& m) -> Value { return m.grad_norm; }, 3,
                "\033[38;2;180;60;0m",
                [](const M& m) { return fmt::format("grad_norm: {:7.4f}", m.grad_norm); }},
    MetricField{"lr", [](const M& m) -> Value { return m.lr; }},
    MetricField{"tps", [](const M& m) -> Value { return m.tokens_per_second; }, 5, "\033[34m",
                [](const M& m) {
                  return "tps: " + with_thousands(std::nearbyint(m.tokens_per_second), 0);
                }},
    MetricField{"tflops", [](const M& m) -> Value { return m.tflops; }, 6, "\033[36m",
                [](const M& m) { return "tflops: " + with_thousands(m.tflops, 2); }},
    MetricField{"mfu", [](const M& m) { return known(m.mfu_percent); }, 7, "\033[35m",
                [](const M& m) {
                  return m.mfu_percent ? fmt::format("mfu: {:.2f}%", *m.mfu_percent)
                                       : std::string("mfu: N/A");
                }},
    MetricField{"tflops_causal", [](const M& m) -> Value { return m.tflops_causal; }},
    MetricField{"mfu_causal", [](const M& m) { return known(m.mfu_causal_percent); }},
    MetricField{"memory_gib", [](const M& m) -> Value { return m.memory_gib; }, 4,
                "\033[38;2;54;234;195m",
                [](const M& m) {
                  return fmt::format("memory: {:5.2f}GiB({:.2f}%)", m.memory_gib, m.memory_percent);
                }},
    MetricField{"memory_percent", [](const M& m) -> Value { return m.memory_percent; }},
    MetricField{"step_seconds", [](const M& m) -> Value { return m.step_seconds; }},
    MetricField{"data_seconds", [](const M& m) -> Value { return m.data_seconds; }},
    MetricField{"tokens_seen", [](const M& m) -> Value { return m.tokens_seen; }},
    MetricField{"expert_overflows", [](const M& m) -> Value { return m.expert_overflows; }},
    MetricField{"expert_load_max_over_mean",
                [](const M& m) -> Value { return m.expert_load_max_over_mean; }},
    MetricField{"expert_load_p5", of_experts<&E::p5>},
    MetricField{"expert_load_p50", of_experts<&E::p50>},
    MetricField{"expert_load_p95", of_experts<&E::p95>},
    MetricField{"expert_load_entropy", of_experts<&E::lowest_entropy>},
    MetricField{"expert_dead", of_experts<&E::dead>},
    MetricField{"expert_dropped", of_experts<&E::dropped>},
    MetricField{"expert_bias_min", of_experts<&E::bias_min>},
    MetricField{"expert_bias_max", of_experts<&E::bias_max>},
};

}  // namespace

std::span<const MetricField> step_fields() { return kFields; }

std::string with_thousands(double value, int decimals) {
  std::string text = fmt::format("{:.{}f}", value, decimals);
  const size_t first = text[0] == '-' ? 1 : 0;
  size_t end = text.find('.');
  if (end == std::string::npos) end = text.size();
  for (size_t i = end; i > first + 3; i -= 3) text.insert(i - 3, ",");
  return text;
}

std::string step_line(const StepMetrics& m, bool color) {
  std::array<const MetricField*, kFields.size() + 1> by_place{};
  for (const MetricField& f : kFields) by_place[static_cast<size_t>(f.console_place)] = &f;
  std::string line;
  for (size_t place = 1; place < by_place.size() && by_place[place] != nullptr; ++place) {
    if (place > 1) line += "  ";
    if (color) line += by_place[place]->color;
    line += by_place[place]->console(m);
  }
  return color ? line + "\033[39m" : line;
}

}  // namespace nereus
