// The figures of a logged step and of a validation, and one table of what they are called: the
// console line in TorchTitan's format, metrics.jsonl and every other sink (observe/sink.h) follow
// it. Tags of TensorBoard and W&B are TorchTitan's where it has the figure; ours are
// group/name(unit).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "observe/expert_table.h"

namespace nereus {

// What a rank's host did with the time of a step, seconds: what is left is the log and the sinks.
struct StepParts {
  double data = 0;        // waited for the batch
  double enqueue = 0;     // gave out the step's work; on a CPU, did it
  double wait = 0;        // for the device and for other ranks
  double save = 0;        // checkpoints, while training stood still
  double validation = 0;  // held-out rows
};

// The gradient norm of "layer_3", or of "outside_layers".
struct LayerNorm {
  std::string name;
  double norm = 0;
};

// Of the run, not of the rank that writes them, but for the parts of a step.
struct StepMetrics {
  int64_t step = 0;
  double time = 0;                            // Unix seconds
  double loss = 0, grad_norm = 0, lr = 0;     // of this step; the norm before clipping
  double max_loss = 0;                        // the highest of a rank's tokens
  double memory_gib = 0, memory_percent = 0;  // highest so far, of any device or process
  double tokens_per_second = 0;       // a device, over the interval since the last logged step
  double tflops = 0;                  // TFLOP/s a device by TorchTitan's count
  std::optional<double> mfu_percent;  // none: the device's peak is not known
  double tflops_causal = 0;           // what is computed: of attention what its mask leaves
  std::optional<double> mfu_causal_percent;
  double step_seconds = 0;       // mean of the interval
  double data_seconds = 0;       // mean time that a step of the slowest rank waited for data
  StepParts parts;               // means of the interval, of this rank
  int64_t tokens_seen = 0;       // by all ranks, since the start
  int64_t expert_overflows = 0;  // steps run again with more expert capacity, so far
  double expert_load_max_over_mean = 0;     // of the busiest expert, worst layer; 0 without experts
  std::optional<ExpertFigures> experts;     // of this step; none: the model has none
  std::vector<LayerNorm> layer_norms = {};  // of this step, with metrics.grad_norm_by_layer
};

struct ValidationMetrics {
  int64_t step = 0;
  double time = 0;                            // Unix seconds
  double loss = 0;                            // mean over the held-out tokens
  double memory_gib = 0, memory_percent = 0;  // highest so far
  double tokens_per_second = 0;               // a device
};

// One figure of a logged step: every sink writes the fields of one table.
struct MetricField {
  using Value = std::variant<std::monostate, int64_t, double>;  // monostate: not known

  const char* name;  // in metrics.jsonl; null: not there
  const char* tag;   // in TensorBoard and W&B; null: not there
  Value (*value)(const StepMetrics&);
  // On the console line, from left to right by place; 0: not there.
  int console_place = 0;
  const char* color = "";                                // ANSI
  std::string (*console)(const StepMetrics&) = nullptr;  // "loss:  8.0123"
};

// In the order of metrics.jsonl.
std::span<const MetricField> step_fields();

// The figures of each layer's experts and router, by their tags.
struct NamedFigure {
  std::string name;
  double value = 0;
};
std::vector<NamedFigure> layer_scalars(const ExpertTable&);

// One figure of a validation, for TensorBoard and W&B.
struct ValidationField {
  const char* tag;
  double (*value)(const ValidationMetrics&);
};
std::span<const ValidationField> validation_fields();

// `step: 10  loss:  8.0123  grad_norm:  1.0000  memory:  1.25GiB(3.12%)  tps: 1,234  tflops: 0.10
// mfu: 0.01%`, with ANSI colours as TorchTitan's when `color`.
std::string step_line(const StepMetrics&, bool color);

// 1234567.4 -> "1,234,567"
std::string with_thousands(double value, int decimals);

}  // namespace nereus
