#include "cli/progress_bar.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "base/text.h"

namespace nereus {
namespace {

constexpr double kDrawSeconds = 0.2, kLineSeconds = 5;

// 0:16, 12:03, 3:05:07
std::string time_text(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  return s < 3600 ? fmt::format("{}:{:02}", s / 60, s % 60)
                  : fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

}  // namespace

std::string progress_text(int64_t done, int64_t all, int64_t found, double seconds) {
  constexpr int kWidth = 30;
  const double share = all > 0 ? static_cast<double>(done) / static_cast<double>(all) : 1;
  const auto filled = static_cast<size_t>(share * kWidth);
  std::string out =
      fmt::format("[{}{}] {:3.0f} %   {} of {}", std::string(filled, '#'),
                  std::string(kWidth - filled, '-'), 100 * share, size_text(done), size_text(all));
  const double moved = static_cast<double>(done - found);
  if (moved <= 0 || seconds <= 0) return out;
  const double rate = moved / seconds;
  out += fmt::format(", {}/s, ", size_text(static_cast<int64_t>(rate)));
  return out + (done < all ? time_text(static_cast<double>(all - done) / rate) + " left"
                           : time_text(seconds));
}

ProgressBar::ProgressBar(std::FILE* out) : out_(out), terminal_(::isatty(::fileno(out)) != 0) {}

ProgressBar::~ProgressBar() {
  if (terminal_ && drawn_) std::fputc('\n', out_);
}

void ProgressBar::show(int64_t done, int64_t all, int64_t found, const std::string& more) {
  const auto now = Clock::now();
  const double since = std::chrono::duration<double>(now - last_).count();
  if (done < all && since < (terminal_ ? kDrawSeconds : kLineSeconds)) return;
  last_ = now;
  std::string line =
      progress_text(done, all, found, std::chrono::duration<double>(now - begin_).count()) + more;
  const size_t width = line.size();
  if (terminal_) line = "\r" + line + std::string(width_ > width ? width_ - width : 0, ' ');
  width_ = width;
  drawn_ = true;
  std::fputs((terminal_ ? line : line + "\n").c_str(), out_);
  std::fflush(out_);
}

}  // namespace nereus
