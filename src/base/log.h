// The logger: one line an event, in the form that readers of TorchTitan's logs expect:
//
//   [titan] 2025-10-02 20:23:53,470 - root - INFO - message
//
// to standard output. For .cc files only (fmt). The one global of the program.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

namespace nereus::log {

enum class Level { debug, info, warning, error };

void write(Level level, std::string_view message);  // thread-safe; one write(2) a line
void set_level(Level lowest);                       // default info

// This thread is one of several ranks: its lines begin with "[rank3]:", as under torchrun, and one
// that does not speak writes errors alone. Rank -1: the only one, no label.
void set_rank(int rank, bool speaks);

template <class... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::info, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void warning(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::warning, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::error, fmt::format(format, std::forward<Args>(args)...));
}

// While one lives, lines go to `text()` instead of standard output: how tests read the log.
class Capture {
 public:
  Capture();
  ~Capture();
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  std::string text() const;
};

}  // namespace nereus::log
