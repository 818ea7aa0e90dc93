#include "report/text.h"

#include <cmath>

#include "base/check.h"
#include "report/comparison.h"
#include "report/goodput.h"

namespace nereus::report {
namespace {

std::string percent(double x) { return std::isfinite(x) ? fmt::format("{:.1f} %", x) : "?"; }

void line(std::string& out, const char* name, const std::string& value) {
  out += fmt::format("  {:<14} {}\n", name, value);
}

std::string losses(const Run& run) {
  const Samples* const loss = run.find("loss");
  if (loss == nullptr) return "not known";
  return fmt::format("{} to {} (lowest {})", figure(run.loss_first), figure(loss->last().y),
                     figure(loss->low()));
}

std::string speeds(const Run& run, const Measure& m) {
  const Spread& s =
      std::isnan(m.tokens_per_second.mean) ? m.tokens_per_second_per_gpu : m.tokens_per_second;
  const bool of_device = &s == &m.tokens_per_second_per_gpu;
  std::string out = fmt::format("mean {}, median {}, deviation {}{}", figure(s.mean),
                                figure(s.median), figure(s.stddev), of_device ? " a device" : "");
  if (!of_device && run.ranks > 1)
    out += fmt::format("; {} a device", figure(m.tokens_per_second_per_gpu.mean));
  return out + fmt::format(" (steps {} to {})", m.window.first, m.window.second);
}

std::string flops(const Measure& m) {
  constexpr const char* kNames[] = {"TorchTitan's count", "non-causal", "causal", "with recompute"};
  std::string out;
  for (size_t i = 0; i < m.tflops.size(); ++i) {
    if (!std::isfinite(m.tflops[i])) continue;
    out += fmt::format("{}{} ({}{})", out.empty() ? "" : ", ", figure(m.tflops[i]), kNames[i],
                       std::isfinite(m.mfu[i]) ? ", MFU " + percent(m.mfu[i]) : "");
  }
  return out;
}

std::string time_text(const Goodput& g) {
  std::string out = fmt::format("{} of {} in steps that counted", percent(100 * g.share()),
                                duration(g.all.total()));
  std::string lost;
  for (const TimeParts::Part& p : TimeParts::parts()) {
    const double seconds = g.all.*p.seconds;
    if (p.seconds == &TimeParts::counted || seconds < 0.005 * g.all.total()) continue;
    lost += fmt::format("{}{} {}", lost.empty() ? "; " : ", ", p.label, duration(seconds));
  }
  return out + lost;
}

std::string text_of(const Run& run, std::optional<Window> window) {
  std::string out = run.name;
  if (!run.description.empty()) out += ": " + run.description;
  out += '\n';
  const Measure m = measure(run, window);
  const Goodput g = goodput(run);
  if (!run.model.empty()) line(out, "model", run.model);
  line(out, "steps",
       fmt::format("{}{}{}", run.steps,
                   run.total_steps > 0 ? fmt::format(" of {}", run.total_steps) : "",
                   run.starts.size() > 1 ? fmt::format(", in {} starts", run.starts.size()) : ""));
  line(out, "loss", losses(run));
  if (const Samples* v = run.find("validation_loss"))
    line(out, "validation", fmt::format("{} to {}", figure(v->first().y), figure(v->last().y)));
  line(out, "tokens/s", speeds(run, m));
  line(out, "step time",
       fmt::format("mean {} s, median {} s, deviation {} s", figure(m.step_seconds.mean),
                   figure(m.step_seconds.median), figure(m.step_seconds.stddev)));
  if (const std::string f = flops(m); !f.empty()) line(out, "TFLOP/s", f);
  if (const Samples* memory = run.find("memory_gib"))
    line(out, "memory", fmt::format("{} GiB at most on a device", figure(memory->high())));
  if (g.all.total() > 0) line(out, "goodput", time_text(g));
  for (const std::string& note : run.notes) line(out, "note", note);
  return out;
}

std::string text_of(const Comparison& c, const std::vector<Run>& runs) {
  std::string out;
  if (c.models_differ)
    out += "These runs are of different models: their losses are not of the same thing.\n";
  for (size_t i = 0; i < c.pairs.size(); ++i) {
    const Comparison::Pair& p = c.pairs[i];
    const std::string names = fmt::format("{} and {}", runs[0].name, runs[i + 1].name);
    if (p.common == 0)
      out += fmt::format("{} logged no step in common.\n", names);
    else if (p.first_step < 0)
      out += fmt::format("{} have the same loss at all {} steps in common.\n", names, p.common);
    else
      out += fmt::format(
          "{} first differ at step {}: loss {} and {}; {}{}.\n", names, p.first_step, p.loss_a,
          p.loss_b,
          p.one_percent < 0 ? "never by 1 %" : fmt::format("by 1 % from step {}", p.one_percent),
          p.largest_step < 0
              ? ""
              : fmt::format("; most at step {}, by {}", p.largest_step, percent(100 * p.largest)));
  }
  if (!c.settings.empty()) out += "Settings that differ:\n";
  for (const Comparison::Row& row : c.settings) {
    std::string values;
    for (const std::string& v : row.values)
      values += (values.empty() ? "" : " | ") + (v.empty() ? "-" : v);
    out += fmt::format("  {}: {}\n", row.key, values);
  }
  return out;
}

}  // namespace

std::string figure(double x) {
  if (!std::isfinite(x)) return "?";
  const double size = std::abs(x);
  if (size != 0 && size < 1e-3) return fmt::format("{:.3g}", x);
  if (size < 1000) return fmt::format("{:.{}f}", x, size < 10 ? 4 : size < 100 ? 2 : 1);
  std::string text = fmt::format("{:.0f}", x);
  for (size_t i = text.size(); i > (x < 0 ? 4U : 3U); i -= 3) text.insert(i - 3, ",");
  return text;
}

std::string duration(double seconds) {
  if (!std::isfinite(seconds)) return "?";
  if (seconds < 100) return fmt::format("{:.1f} s", seconds);
  if (seconds < 3600) return fmt::format("{:.1f} min", seconds / 60);
  const auto minutes = static_cast<int64_t>(seconds / 60);
  if (minutes < 48 * 60) return fmt::format("{} h {:02} min", minutes / 60, minutes % 60);
  return fmt::format("{} d {:02} h", minutes / 1440, minutes / 60 % 24);
}

std::string text(const std::vector<Run>& runs, std::optional<Window> window) {
  std::string out;
  for (const Run& run : runs) out += text_of(run, window);
  return runs.size() > 1 ? out + text_of(compare(runs), runs) : out;
}

std::string one_line(const Run& run) {
  const Measure m = measure(run);
  const Goodput g = goodput(run);
  std::string out = fmt::format("loss {} to {} in {} steps", figure(run.loss_first),
                                figure(run.last("loss")), run.steps);
  if (std::isfinite(m.tokens_per_second.mean))
    out += fmt::format("; {} tokens/s (median {}, deviation {}, steps {} to {})",
                       figure(m.tokens_per_second.mean), figure(m.tokens_per_second.median),
                       figure(m.tokens_per_second.stddev), m.window.first, m.window.second);
  if (std::isfinite(m.mfu[0])) out += fmt::format("; MFU {}", percent(m.mfu[0]));
  if (g.all.total() > 0) out += fmt::format("; goodput {}", percent(100 * g.share()));
  return out;
}

}  // namespace nereus::report
