// A port on which Prometheus reads a run's last figures: http://ADDRESS:PORT/metrics, in its text
// format, by prometheus-cpp. Names have base units: nereus_step_duration_seconds, nereus_loss,
// nereus_memory_bytes, nereus_tokens_total. Two threads of the library answer; a step only sets
// numbers.
#pragma once

#include <memory>
#include <string>

#include "observe/sink.h"

namespace nereus {

class PrometheusSink final : public Sink {
 public:
  // Begins to listen. Throws Error{kConfig}: the port is in use, or the address none of this host.
  PrometheusSink(const std::string& address, int64_t port);
  ~PrometheusSink() override;

  void step(const StepMetrics&) override;
  void validation(const ValidationMetrics&) override;
  void event(const RunEvent&) override;

 private:
  struct Metrics;
  std::unique_ptr<Metrics> metrics_;
};

}  // namespace nereus
