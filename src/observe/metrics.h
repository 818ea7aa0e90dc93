// What a logged step tells: the console line in TorchTitan's format, and one JSON object a step in
// metrics.jsonl with everything in full precision.
#pragma once

#include <cstdint>
#include <fstream>
#include <optional>
#include <string>

namespace nereus {

struct StepMetrics {
  int64_t step = 0;
  double loss = 0, grad_norm = 0, lr = 0;     // of this step; the norm before clipping
  double memory_gib = 0, memory_percent = 0;  // highest so far, of the device or the process
  double tokens_per_second = 0;          // a device, over the interval since the last logged step
  double tflops = 0;                     // TFLOP/s a device by TorchTitan's count
  std::optional<double> mfu_percent;     // none: the device's peak is not known
  double step_seconds = 0;               // mean of the interval
  double data_seconds = 0;               // mean time a step waited for data
  int64_t tokens_seen = 0;               // by all ranks, since the start
  int64_t expert_overflows = 0;          // steps run again with more room for experts, so far
  double expert_load_max_over_mean = 0;  // of the busiest expert, worst layer; 0 without experts
};

// `step: 10  loss:  8.0123  grad_norm:  1.0000  memory:  1.25GiB(3.12%)  tps: 1,234  tflops: 0.10
// mfu: 0.01%`, with ANSI colours as TorchTitan's when `color`.
std::string step_line(const StepMetrics&, bool color);

// 1234567.4 -> "1,234,567"
std::string with_thousands(double value, int decimals);

// metrics.jsonl of a run: appended to, a line flushed at a time, so that a killed run keeps its
// lines. Throws Error{kIo} naming the file.
class MetricsFile {
 public:
  explicit MetricsFile(const std::string& path);
  void write(const StepMetrics&);
  // A validation's result: {"step":.., "validation_loss":..}.
  void write_validation(int64_t step, double loss);

 private:
  void line(const std::string& text);
  std::string path_;
  std::ofstream out_;
};

}  // namespace nereus
