#include "report/top_screen.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "report/measure.h"
#include "report/text.h"

namespace nereus::report {
namespace {

constexpr const char* kBlocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
constexpr const char kAscii[] = "_.-:=+*#";

// Characters of UTF-8.
int width_of(const std::string& text) {
  return static_cast<int>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

// The first `columns` characters; control characters become blanks.
std::string cut(const std::string& text, int columns) {
  std::string out;
  int n = 0;
  for (const char c : text) {
    if ((static_cast<unsigned char>(c) & 0xC0) != 0x80 && ++n > columns) break;
    out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
  }
  return out;
}

class Lines {
 public:
  Lines(const RunFollower& run, const Screen& screen) : run_(run), screen_(screen) {}

  std::vector<std::string> all() {
    head();
    bar();
    if (run_.lines().empty()) {
      add("waiting for the first logged step");
      return std::move(out_);
    }
    add("");
    course("loss", "loss", figure(run_.last("loss")), validation());
    course("norm", "grad_norm", figure(run_.last("grad_norm")), "gradient, before clipping");
    course("tokens/s", "tps", tokens(), "a device");
    course("step", "step_seconds", figure(run_.last("step_seconds")) + " s", data());
    memory();
    experts();
    events();
    return std::move(out_);
  }

 private:
  void add(std::string line) {
    if (static_cast<int>(out_.size()) < screen_.rows)
      out_.push_back(cut(std::move(line), screen_.columns));
  }
  bool wide() const { return screen_.columns >= 64; }
  std::string bold(const std::string& text) const {
    return screen_.color ? "\033[1m" + text + "\033[0m" : text;
  }

  void head() {
    std::string left = run_.name;
    if (!run_.model.empty() && wide()) left += "  " + run_.model;
    if (run_.ranks > 0) left += fmt::format("  {} rank{}", run_.ranks, run_.ranks == 1 ? "" : "s");
    const double step = run_.last("step_seconds");
    const double patience = std::max(60.0, std::isfinite(step) ? 20 * step : 0.0);
    std::string right = run_.ended.empty() ? "running" : run_.ended;
    if (run_.ended.empty() && run_.seconds_quiet > patience)
      right = "quiet for " + duration(run_.seconds_quiet);
    left = cut(left, std::max(0, screen_.columns - width_of(right) - 2));
    const int gap = std::max(1, screen_.columns - width_of(left) - width_of(right));
    if (screen_.rows > 0)
      out_.push_back(bold(left) + std::string(static_cast<size_t>(gap), ' ') + right);
    if (screen_.columns < width_of(right) + 2) out_.back() = cut(left, screen_.columns);
    if (wide() && !run_.description.empty()) add(run_.description);
  }

  void bar() {
    const int64_t step = run_.lines().empty() ? 0 : run_.lines().back().step;
    std::string text = fmt::format("step {}", step);
    double share = -1;
    if (run_.total_steps > 0) {
      share = std::min(1.0, static_cast<double>(step) / static_cast<double>(run_.total_steps));
      text += fmt::format(" of {}", run_.total_steps);
      const double seconds = median_step();
      const auto left = static_cast<double>(run_.total_steps - step);
      if (std::isfinite(seconds) && left > 0 && run_.ended.empty())
        text += ", " + duration(seconds * left) + " left";
      text = fmt::format("{:3.0f} %  {}", 100 * share, text);
    }
    const int room = std::min(40, screen_.columns - width_of(text) - 3);
    if (share >= 0 && room >= 8) {
      const auto full = static_cast<int>(share * room);
      std::string drawn;
      for (int i = 0; i < room; ++i)
        drawn += screen_.blocks ? (i < full ? "█" : "░") : (i < full ? "#" : "-");
      text = drawn + "  " + text;
    }
    add(text);
  }

  double median_step() const {
    std::vector<double> seconds = values("step_seconds");
    if (seconds.size() > 32) seconds.erase(seconds.begin(), seconds.end() - 32);
    return spread(std::move(seconds)).median;
  }

  std::vector<double> values(const std::string& name) const {
    std::vector<double> out;
    for (const RunFollower::Line& line : run_.lines())
      if (const auto it = line.figures.find(name); it != line.figures.end())
        out.push_back(it->second);
    return out;
  }

  // "loss      7.1234  ▇▆▅▄▃▂▁  validation 7.46 at step 80"
  void course(const char* label, const char* name, const std::string& value,
              const std::string& more) {
    const std::vector<double> all = values(name);
    if (all.empty()) return;
    std::string line = fmt::format("{:<9} {:>11}", label, value);
    const int side = wide() && !more.empty() ? std::min(34, screen_.columns / 3) : 0;
    const int room = screen_.columns - width_of(line) - 2 - side;
    if (room >= 6) line += "  " + sparkline(all, room, screen_.blocks);
    if (side > 0) line += "  " + more;
    add(line);
  }

  std::string tokens() const { return figure(std::round(run_.last("tps"))); }
  std::string validation() const {
    if (std::isnan(run_.validation_loss)) return "";
    return fmt::format("validation {} at step {}", figure(run_.validation_loss),
                       run_.validated_step);
  }
  std::string data() const {
    const double wait = run_.last("data_seconds"), step = run_.last("step_seconds");
    if (!std::isfinite(wait) || !(step > 0)) return "";
    return fmt::format("{:.1f} % waiting for data", 100 * wait / step);
  }

  void memory() {
    const double gib = run_.last("memory_gib"), percent = run_.last("memory_percent");
    const double mfu = run_.last("mfu"), tflops = run_.last("tflops");
    std::string line;
    if (std::isfinite(gib))
      line = fmt::format("{:<9} {:>11}", "memory", fmt::format("{:.2f} GiB", gib));
    if (std::isfinite(percent)) line += fmt::format("  {:.1f} %", percent);
    if (std::isfinite(tflops)) line += fmt::format("    {} TFLOP/s a device", figure(tflops));
    if (std::isfinite(mfu)) line += fmt::format(", MFU {:.1f} %", mfu);
    if (!line.empty()) add(line);
  }

  void experts() {
    const double busiest = run_.last("expert_load_max_over_mean");
    if (!(busiest > 0)) return;
    std::string more;
    if (const double e = run_.last("expert_load_entropy"); std::isfinite(e))
      more += fmt::format("entropy {:.3f}", e);
    if (const double dead = run_.last("expert_dead"); dead > 0)
      more += fmt::format(", {:.0f} dead", dead);
    const double low = run_.last("expert_bias_min"), high = run_.last("expert_bias_max");
    if (std::isfinite(low) && std::isfinite(high) && screen_.columns >= 100)
      more += fmt::format(", bias {:.2g} to {:.2g}", low, high);
    course("experts", "expert_load_max_over_mean", fmt::format("{:.2f} x", busiest), more);
  }

  void events() {
    const int room = screen_.rows - static_cast<int>(out_.size()) - 1;
    if (run_.events().empty() || room < 2) return;
    add("");
    const auto n = static_cast<int>(run_.events().size());
    for (int i = std::max(0, n - std::min(room, 8)); i < n; ++i) {
      const Event& e = run_.events()[static_cast<size_t>(i)];
      add(fmt::format("{:>8}  {:<10} {}", e.step.value_or(0), e.kind, e.text));
    }
  }

  const RunFollower& run_;
  const Screen& screen_;
  std::vector<std::string> out_;
};

}  // namespace

std::string sparkline(const std::vector<double>& all, int columns, bool blocks) {
  std::vector<double> values;
  for (const double x : all)
    if (std::isfinite(x)) values.push_back(x);
  if (values.empty() || columns <= 0) return "";
  const size_t n = std::min(values.size(), static_cast<size_t>(columns));
  std::vector<double> places(n);
  for (size_t i = 0; i < n; ++i) {
    const size_t begin = i * values.size() / n, end = (i + 1) * values.size() / n;
    for (size_t k = begin; k < end; ++k) places[i] += values[k] / static_cast<double>(end - begin);
  }
  const auto [low, high] = std::minmax_element(places.begin(), places.end());
  std::string out;
  for (const double x : places) {
    const double share = *high > *low ? (x - *low) / (*high - *low) : 0.5;
    const auto level = std::min<size_t>(7, static_cast<size_t>(share * 8));
    if (blocks)
      out += kBlocks[level];
    else
      out += kAscii[level];
  }
  return out;
}

std::vector<std::string> top_screen(const RunFollower& run, const Screen& screen) {
  return Lines(run, screen).all();
}

}  // namespace nereus::report
