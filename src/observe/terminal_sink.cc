#include "observe/terminal_sink.h"

#include <algorithm>

#include "base/check.h"

namespace nereus {
namespace {

constexpr auto kDrawEvery = std::chrono::milliseconds(200);
constexpr size_t kSteps = 32;  // that the pace is the mean of

// 0:16, 12:03, 3:05:07
std::string time_left(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  return s < 3600 ? fmt::format("{}:{:02}", s / 60, s % 60)
                  : fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

}  // namespace

std::string progress_bar(int64_t step, int64_t steps, double seconds, int columns) {
  const double share =
      steps > 0 ? std::min(1.0, static_cast<double>(step) / static_cast<double>(steps)) : 1;
  const std::string percent = fmt::format("{:3.0f} %", 100 * share);
  std::string text = fmt::format("{}  step {} of {}", percent, step, steps);
  const auto add = [&](const std::string& more) {
    if (text.size() + more.size() <= static_cast<size_t>(std::max(0, columns))) text += more;
  };
  if (seconds > 0 && step < steps) {
    const std::string left =
        ", " + time_left(seconds * static_cast<double>(steps - step)) + " left";
    const std::string pace = fmt::format(", {:.{}f} s a step", seconds,
                                         seconds < 0.1   ? 3
                                         : seconds < 100 ? 2
                                                         : 0);
    if (text.size() + pace.size() + left.size() + 14 <= static_cast<size_t>(std::max(0, columns)))
      add(pace);
    add(left);
  }
  const int room = std::min(30, columns - static_cast<int>(text.size()) - 4);
  if (room < 6) return text.substr(0, static_cast<size_t>(std::max(0, columns)));
  const auto full = static_cast<size_t>(share * room);
  return fmt::format("[{}{}] {}", std::string(full, '#'),
                     std::string(static_cast<size_t>(room) - full, '-'), text);
}

void TerminalSink::progress(int64_t step) {
  const auto now = Clock::now();
  ends_.push_back(now);
  if (ends_.size() > kSteps + 1) ends_.pop_front();
  if (ended_ || (now - drawn_ < kDrawEvery && step != steps_)) return;
  drawn_ = now;
  const std::chrono::duration<double> took = ends_.back() - ends_.front();
  const double seconds =
      ends_.size() > 1 ? took.count() / static_cast<double>(ends_.size() - 1) : 0;
  status_.bar(progress_bar(step, steps_, seconds, log::terminal_columns() - 1));
}

void TerminalSink::step(const StepMetrics& m) { status_.line(step_line(m, color_)); }

void TerminalSink::event(const RunEvent& e) {
  if (e.kind != EventKind::end && e.kind != EventKind::error && e.kind != EventKind::nonfinite)
    return;
  ended_ = true;
  status_.end();
}

}  // namespace nereus
