#include "observe/prometheus_sink.h"

#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <array>
#include <cstring>

#include "base/check.h"

namespace nereus {
namespace {

// A figure of metrics.jsonl under Prometheus' rules: base units, ratios from 0 to 1.
struct Row {
  const char* field;  // its name in metrics.jsonl
  const char* name;
  const char* help;
  double scale = 1;
};
constexpr double kGiBInBytes = 1 << 30;
constexpr std::array kRows{
    Row{"step", "nereus_step", "The last logged step."},
    Row{"loss", "nereus_loss", "Mean loss of the labels of the step."},
    Row{"max_loss", "nereus_max_loss", "The highest loss of a rank."},
    Row{"grad_norm", "nereus_gradient_norm", "Norm of the gradient before clipping."},
    Row{"lr", "nereus_learning_rate", "Learning rate of the step."},
    Row{"tps", "nereus_tokens_per_second", "Tokens a second and device."},
    Row{"tflops", "nereus_flops_per_second", "FLOP/s of a device by TorchTitan's count.", 1e12},
    Row{"mfu", "nereus_mfu_ratio", "Share of the device's peak, by TorchTitan's count.", 0.01},
    Row{"mfu_causal", "nereus_mfu_causal_ratio", "The same by what is computed.", 0.01},
    Row{"memory_gib", "nereus_memory_bytes", "Highest memory so far of any device or process.",
        kGiBInBytes},
    Row{"memory_percent", "nereus_memory_ratio", "The same as a share of the memory.", 0.01},
    Row{"step_seconds", "nereus_step_duration_seconds", "Mean of the steps since the last logged."},
    Row{"data_seconds", "nereus_data_wait_seconds",
        "Mean time that a step of the slowest rank waited for data."},
    Row{"expert_load_max_over_mean", "nereus_expert_load_max_ratio",
        "Tokens of the busiest expert over the mean, in the worst layer."},
    Row{"expert_load_p95", "nereus_expert_load_p95_ratio",
        "95th percentile of an expert's tokens over its layer's mean."},
    Row{"expert_load_p50", "nereus_expert_load_p50_ratio", "The median of the same."},
    Row{"expert_load_entropy", "nereus_expert_load_entropy_ratio",
        "Entropy of the experts' load over that of an even load, in the worst layer."},
    Row{"expert_dead", "nereus_dead_experts", "Experts without a token, of all layers."},
    Row{"expert_bias_min", "nereus_expert_bias_min", "Lowest balancing bias."},
    Row{"expert_bias_max", "nereus_expert_bias_max", "Highest balancing bias."},
};

// Those that only grow.
constexpr std::array kCounters{
    Row{"tokens_seen", "nereus_tokens_total", "Tokens seen by all ranks since the start."},
    Row{"expert_overflows", "nereus_reruns_total",
        "Steps that ran again with more expert capacity."},
};

const MetricField* field(const char* name) {
  for (const MetricField& f : step_fields())
    if (f.name != nullptr && std::strcmp(f.name, name) == 0) return &f;
  NEREUS_FAIL(kContract, "no field of a step is called {}", name);
}

std::optional<double> number(const MetricField::Value& value) {
  if (const auto* n = std::get_if<int64_t>(&value)) return static_cast<double>(*n);
  if (const auto* x = std::get_if<double>(&value)) return *x;
  return std::nullopt;
}

}  // namespace

struct PrometheusSink::Metrics {
  struct Figure {
    const MetricField* field;
    double scale;
    prometheus::Family<prometheus::Gauge>* family;
    prometheus::Gauge* gauge = nullptr;  // once it is known
  };
  struct Total {
    const MetricField* field;
    prometheus::Counter* counter;
  };

  prometheus::Gauge& gauge(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(*registry).Add({});
  }

  std::shared_ptr<prometheus::Registry> registry = std::make_shared<prometheus::Registry>();
  std::vector<Figure> figures;
  std::vector<Total> totals;
  prometheus::Gauge &last_step = gauge("nereus_last_step_timestamp_seconds",
                                       "When the last logged step ended, Unix time."),
                    &validation_loss = gauge("nereus_validation_loss", "Loss on held-out rows.");
  prometheus::Family<prometheus::Counter>& events =
      prometheus::BuildCounter()
          .Name("nereus_events_total")
          .Help("Events since this start: the kinds of events.jsonl.")
          .Register(*registry);
  prometheus::Counter& stood_still = prometheus::BuildCounter()
                                         .Name("nereus_checkpoint_duration_seconds_total")
                                         .Help("Time that training stood still for saving.")
                                         .Register(*registry)
                                         .Add({});
  std::unique_ptr<prometheus::Exposer> server;  // last: answers out of the others
};

PrometheusSink::PrometheusSink(const std::string& address, int64_t port)
    : metrics_(std::make_unique<Metrics>()) {
  for (const Row& r : kRows)
    metrics_->figures.push_back(
        {.field = field(r.field),
         .scale = r.scale,
         .family =
             &prometheus::BuildGauge().Name(r.name).Help(r.help).Register(*metrics_->registry)});
  for (const Row& r : kCounters)
    metrics_->totals.push_back({.field = field(r.field),
                                .counter = &prometheus::BuildCounter()
                                                .Name(r.name)
                                                .Help(r.help)
                                                .Register(*metrics_->registry)
                                                .Add({})});
  const std::string place = fmt::format("{}:{}", address, port);
  try {
    metrics_->server = std::make_unique<prometheus::Exposer>(place);
  } catch (const std::exception& e) {
    NEREUS_FAIL(kConfig,
                "metrics.prometheus_port = {}, metrics.prometheus_address = {}: cannot listen on "
                "{}: the port is in use, or the address is none of this host's. Choose another "
                "port, or 0 for none.",
                port, address, place);
  }
  metrics_->server->RegisterCollectable(metrics_->registry);
}

PrometheusSink::~PrometheusSink() = default;

void PrometheusSink::step(const StepMetrics& m) {
  for (Metrics::Figure& f : metrics_->figures) {
    const std::optional<double> x = number(f.field->value(m));
    if (!x) continue;
    if (f.gauge == nullptr) f.gauge = &f.family->Add({});
    f.gauge->Set(*x * f.scale);
  }
  for (Metrics::Total& t : metrics_->totals)
    if (const std::optional<double> x = number(t.field->value(m)))
      t.counter->Increment(std::max(0.0, *x - t.counter->Value()));
  metrics_->last_step.Set(m.time);
}

void PrometheusSink::validation(const ValidationMetrics& m) {
  metrics_->validation_loss.Set(m.loss);
}

void PrometheusSink::event(const RunEvent& e) {
  metrics_->events.Add({{"kind", std::string(word(e.kind))}}).Increment();
  if (e.kind != EventKind::checkpoint) return;
  for (const auto& [name, value] : e.facts)
    if (std::string_view(name) == "seconds")
      metrics_->stood_still.Increment(std::get<double>(value));
}

}  // namespace nereus
