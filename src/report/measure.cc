#include "report/measure.h"

#include <algorithm>
#include <cmath>

namespace nereus::report {
namespace {

constexpr int64_t kWarmUp = 10;

std::vector<const LoggedStep*> lines_of(const Run& run, std::optional<Window> window) {
  std::vector<const LoggedStep*> out;
  for (const int64_t warm_up : {kWarmUp, int64_t{0}}) {
    for (const LoggedStep& s : run.logged) {
      const bool in = window ? s.before + 1 >= window->first && s.step <= window->second
                             : !s.first && s.before >= warm_up;
      if (in) out.push_back(&s);
    }
    if (!out.empty()) return out;
  }
  if (!window)  // one line alone
    for (const LoggedStep& s : run.logged) out.push_back(&s);
  return out;
}

}  // namespace

Spread spread(std::vector<double> values) {
  std::erase_if(values, [](double x) { return !std::isfinite(x); });
  Spread out{.count = static_cast<int64_t>(values.size())};
  if (values.empty()) return out;
  const auto n = static_cast<double>(values.size());
  double sum = 0, squares = 0;
  for (const double x : values) sum += x;
  out.mean = sum / n;
  for (const double x : values) squares += (x - out.mean) * (x - out.mean);
  out.stddev = values.size() > 1 ? std::sqrt(squares / (n - 1)) : 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  out.median = *middle;
  if (values.size() % 2 == 0)
    out.median = (out.median + *std::max_element(values.begin(), middle)) / 2;
  return out;
}

Measure measure(const Run& run, std::optional<Window> window) {
  Measure out;
  const std::vector<const LoggedStep*> lines = lines_of(run, window);
  if (lines.empty()) {
    if (window) out.window = *window;
    return out;
  }
  out.window = {lines.front()->before + 1, lines.back()->step};
  std::vector<double> all, device, seconds, tflops, causal;
  for (const LoggedStep* s : lines) {
    double per_device = s->tokens_per_second;
    if (s->step_seconds > 0 && !std::isnan(run.tokens_per_step))
      all.push_back(run.tokens_per_step / s->step_seconds);
    else if (!std::isnan(run.ranks))
      all.push_back(per_device * run.ranks);
    if (std::isnan(per_device) && !all.empty()) per_device = all.back() / run.ranks;
    device.push_back(per_device);
    seconds.push_back(s->step_seconds);
    tflops.push_back(s->tflops);
    causal.push_back(s->tflops_causal);
  }
  out.tokens_per_second = spread(std::move(all));
  out.tokens_per_second_per_gpu = spread(std::move(device));
  out.step_seconds = spread(std::move(seconds));
  const double torchtitan = spread(std::move(tflops)).mean,
               of_mask = spread(std::move(causal)).mean;
  out.tflops[0] = torchtitan;
  out.tflops[1] = torchtitan * run.flops.non_causal;
  out.tflops[2] = std::isnan(of_mask) ? torchtitan * run.flops.causal : of_mask;
  out.tflops[3] = out.tflops[2] * run.flops.recompute;
  for (size_t i = 0; i < out.tflops.size(); ++i) out.mfu[i] = 1e14 * out.tflops[i] / run.peak_flops;
  return out;
}

}  // namespace nereus::report
