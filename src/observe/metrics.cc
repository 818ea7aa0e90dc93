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
    MetricField{"step", nullptr, [](const M& m) -> Value { return m.step; }, 1, "\033[31m",
                [](const M& m) { return fmt::format("step: {:2}", m.step); }},
    MetricField{"loss", "loss_metrics/global_avg_loss", [](const M& m) -> Value { return m.loss; },
                2, "\033[32m", [](const M& m) { return fmt::format("loss: {:7.4f}", m.loss); }},
    MetricField{"grad_norm", "grad_norm", [](const M& m) -> Value { return m.grad_norm; }, 3,
                "\033[38;2;180;60;0m",
                [](const M& m) { return fmt::format("grad_norm: {:7.4f}", m.grad_norm); }},
    MetricField{"lr", "lr", [](const M& m) -> Value { return m.lr; }},
    MetricField{"tps", "throughput(tps)", [](const M& m) -> Value { return m.tokens_per_second; },
                5, "\033[34m",
                [](const M& m) {
                  return "tps: " + with_thousands(std::nearbyint(m.tokens_per_second), 0);
                }},
    MetricField{"tflops", "tflops", [](const M& m) -> Value { return m.tflops; }, 6, "\033[36m",
                [](const M& m) { return "tflops: " + with_thousands(m.tflops, 2); }},
    MetricField{"mfu", "mfu(%)", [](const M& m) { return known(m.mfu_percent); }, 7, "\033[35m",
                [](const M& m) {
                  return m.mfu_percent ? fmt::format("mfu: {:.2f}%", *m.mfu_percent)
                                       : std::string("mfu: N/A");
                }},
    MetricField{"tflops_causal", "throughput/tflops_causal(TFLOP/s)",
                [](const M& m) -> Value { return m.tflops_causal; }},
    MetricField{"mfu_causal", "throughput/mfu_causal(%)",
                [](const M& m) { return known(m.mfu_causal_percent); }},
    MetricField{"memory_gib", "memory/max_reserved(GiB)",
                [](const M& m) -> Value { return m.memory_gib; }, 4, "\033[38;2;54;234;195m",
                [](const M& m) {
                  return fmt::format("memory: {:5.2f}GiB({:.2f}%)", m.memory_gib, m.memory_percent);
                }},
    MetricField{"memory_percent", "memory/max_reserved(%)",
                [](const M& m) -> Value { return m.memory_percent; }},
    MetricField{"step_seconds", "time_metrics/end_to_end(s)",
                [](const M& m) -> Value { return m.step_seconds; }},
    MetricField{"data_seconds", "time_metrics/data_loading(s)",
                [](const M& m) -> Value { return m.data_seconds; }},
    MetricField{"enqueue_seconds", "step_parts/enqueue(s)",
                [](const M& m) -> Value { return m.parts.enqueue; }},
    MetricField{"wait_seconds", "step_parts/wait(s)",
                [](const M& m) -> Value { return m.parts.wait; }},
    MetricField{"save_seconds", "step_parts/save(s)",
                [](const M& m) -> Value { return m.parts.save; }},
    MetricField{"validation_seconds", "step_parts/validation(s)",
                [](const M& m) -> Value { return m.parts.validation; }},
    MetricField{nullptr, "step_parts/data(s)", [](const M& m) -> Value { return m.parts.data; }},
    MetricField{"tokens_seen", "n_tokens_seen", [](const M& m) -> Value { return m.tokens_seen; }},
    MetricField{"max_loss", "loss_metrics/global_max_loss",
                [](const M& m) -> Value { return m.max_loss; }},
    // TorchTitan's, which metrics.jsonl has under other names or not at all: nothing is reserved
    // that is not active, and no allocation is tried again.
    MetricField{nullptr, "time_metrics/data_loading(%)",
                [](const M& m) -> Value {
                  return m.step_seconds > 0 ? 100 * m.data_seconds / m.step_seconds : 0;
                }},
    MetricField{nullptr, "memory/max_active(GiB)",
                [](const M& m) -> Value { return m.memory_gib; }},
    MetricField{nullptr, "memory/max_active(%)",
                [](const M& m) -> Value { return m.memory_percent; }},
    MetricField{nullptr, "memory/num_alloc_retries", [](const M&) -> Value { return int64_t{0}; }},
    MetricField{nullptr, "memory/num_ooms", [](const M&) -> Value { return int64_t{0}; }},
    MetricField{"expert_overflows", "experts/overflows(steps)",
                [](const M& m) -> Value { return m.expert_overflows; }},
    MetricField{"expert_load_max_over_mean", "experts/load_max_over_mean(ratio)",
                [](const M& m) -> Value { return m.expert_load_max_over_mean; }},
    MetricField{"expert_load_p5", "experts/load_p5(ratio)", of_experts<&E::p5>},
    MetricField{"expert_load_p50", "experts/load_p50(ratio)", of_experts<&E::p50>},
    MetricField{"expert_load_p95", "experts/load_p95(ratio)", of_experts<&E::p95>},
    MetricField{"expert_load_entropy", "experts/load_entropy(ratio)",
                of_experts<&E::lowest_entropy>},
    MetricField{"expert_dead", "experts/dead(experts)", of_experts<&E::dead>},
    MetricField{"expert_dropped", "experts/dropped(tokens)", of_experts<&E::dropped>},
    MetricField{"expert_bias_min", "experts/bias_min(score)", of_experts<&E::bias_min>},
    MetricField{"expert_bias_max", "experts/bias_max(score)", of_experts<&E::bias_max>},
};

using V = ValidationMetrics;
constexpr std::array kValidationFields{
    ValidationField{"validation_metrics/loss", [](const V& m) { return m.loss; }},
    ValidationField{"validation_metrics/throughput(tps)",
                    [](const V& m) { return m.tokens_per_second; }},
    ValidationField{"validation_metrics/memory/max_active(GiB)",
                    [](const V& m) { return m.memory_gib; }},
    ValidationField{"validation_metrics/memory/max_active(%)",
                    [](const V& m) { return m.memory_percent; }},
    ValidationField{"validation_metrics/memory/max_reserved(GiB)",
                    [](const V& m) { return m.memory_gib; }},
    ValidationField{"validation_metrics/memory/max_reserved(%)",
                    [](const V& m) { return m.memory_percent; }},
};

}  // namespace

std::span<const MetricField> step_fields() { return kFields; }
std::span<const ValidationField> validation_fields() { return kValidationFields; }

std::vector<NamedFigure> layer_scalars(const ExpertTable& table) {
  std::vector<NamedFigure> out;
  const auto add = [&](const char* group, size_t i, const char* unit, double value) {
    out.push_back({fmt::format("{}/layer_{}({})", group, table.layers[i], unit), value});
  };
  for (size_t i = 0; i < table.layers.size(); ++i) {
    const LayerFigures f = layer_figures(table.counts_of(i));
    add("expert_load_max_over_mean", i, "ratio", f.max_over_mean);
    add("expert_load_entropy", i, "ratio", f.entropy);
    add("expert_dead", i, "experts", static_cast<double>(f.dead));
    if (table.routers.empty()) continue;
    add("router_z_loss", i, "nat2", table.routers[i].z_loss);
    add("router_lse", i, "nat", table.routers[i].lse);
    add("router_logit_max", i, "nat", table.routers[i].logit_max);
  }
  return out;
}

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
