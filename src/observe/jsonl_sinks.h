// A run's files of lines, each one JSON object, for programs: nereus report, pandas, jq. They grow
// as the run goes, a line written at a time, so that a killed run keeps its lines.
#pragma once

#include <string>

#include "observe/sink.h"

namespace nereus {

// metrics.jsonl: a line a logged step with every field in full precision, and {"step":..,
// "validation_loss":..} of a validation. Nothing else.
class MetricsFileSink final : public Sink {
 public:
  explicit MetricsFileSink(const std::string& path) : file_(path) {}
  void step(const StepMetrics&) override;
  void validation(const ValidationMetrics&) override;
  const AppendFile* file() const override { return &file_; }

 private:
  AppendFile file_;
};

// experts.jsonl: now and then the tokens that each expert of each layer got in a step, and its bias
// after it, and statistics of its router: {"step":10,"counts":{"1":[..]},"bias":{"1":[..]},
// "router":{"1":{"z_loss":..,"lse":..,"logit_max":..}}}, layers from 0.
class ExpertsFileSink final : public Sink {
 public:
  explicit ExpertsFileSink(const std::string& path) : file_(path) {}
  void experts(int64_t step, double time, const ExpertTable&) override;
  const AppendFile* file() const override { return &file_; }

 private:
  AppendFile file_;
};

// events.jsonl: what happened besides steps, of all starts of a run (a resumed one goes on in it):
// {"time": Unix seconds, "step":.., "kind":.., "text":..} and the facts of the kind (EventKind).
class EventsFileSink final : public Sink {
 public:
  explicit EventsFileSink(const std::string& path) : file_(path) {}
  void event(const RunEvent&) override;
  const AppendFile* file() const override { return &file_; }

 private:
  AppendFile file_;
};

}  // namespace nereus
