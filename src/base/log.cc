#include "base/log.h"

#include <unistd.h>

#include <array>
#include <chrono>
#include <ctime>
#include <mutex>
#include <optional>
#include <vector>

#include "base/log_listener.h"
#include "base/log_output.h"
#include "base/log_rank.h"

namespace nereus::log {
namespace {

struct State {
  std::mutex mutex;
  Level lowest = Level::info;
  int file = STDOUT_FILENO;
  bool plain = false;
  std::optional<std::string> captured;
  std::mutex listeners_mutex;  // of its own: a listener may take long
  std::vector<Listener*> listeners;
};

State& state() {
  static State instance;
  return instance;
}

// Ranks may be threads of one process.
SpeakingRank& voice() {
  thread_local SpeakingRank instance;
  return instance;
}

std::string_view name(Level level) {
  constexpr std::array<std::string_view, 4> kNames = {"DEBUG", "INFO", "WARNING", "ERROR"};
  return kNames[static_cast<size_t>(level)];
}

// 2025-10-02 20:23:53,470, local time, as Python's logging writes it.
std::string timestamp() {
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto millis =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  std::tm local{};
  localtime_r(&seconds, &local);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S", &local);
  return fmt::format("{},{:03}", text.data(), millis);
}

}  // namespace

void write(Level level, std::string_view message) {
  State& s = state();
  if (level >= Level::info) {
    const std::lock_guard lock(s.listeners_mutex);
    for (const Listener* l : s.listeners)
      if (l->rank_ == voice().rank) l->function_(level >= Level::warning, message);
  }
  if (!voice().speaks && level < Level::error) return;
  const std::string label = voice().rank < 0 ? "" : fmt::format("[rank{}]:", voice().rank);
  const std::lock_guard lock(s.mutex);
  const std::string line = s.plain ? fmt::format("{}: {}\n", name(level), message)
                                   : fmt::format("{}[titan] {} - root - {} - {}\n", label,
                                                 timestamp(), name(level), message);
  if (s.captured) {
    *s.captured += line;
    return;
  }
  if (level < s.lowest) return;
  for (size_t done = 0; done < line.size();) {
    const ssize_t n = ::write(s.file, line.data() + done, line.size() - done);
    if (n <= 0) return;  // a closed standard output must not end a training run
    done += static_cast<size_t>(n);
  }
}

void set_level(Level lowest) {
  const std::lock_guard lock(state().mutex);
  state().lowest = lowest;
}

ToStandardError::ToStandardError() {
  const std::lock_guard lock(state().mutex);
  state().file = STDERR_FILENO;
}
ToStandardError::~ToStandardError() {
  const std::lock_guard lock(state().mutex);
  state().file = STDOUT_FILENO;
}

PlainLines::PlainLines() {
  const std::lock_guard lock(state().mutex);
  state().plain = true;
  state().file = STDERR_FILENO;
}
PlainLines::~PlainLines() {
  const std::lock_guard lock(state().mutex);
  state().plain = false;
  state().file = STDOUT_FILENO;
}
Listener::Listener(Function function) : rank_(voice().rank), function_(std::move(function)) {
  const std::lock_guard lock(state().listeners_mutex);
  state().listeners.push_back(this);
}
Listener::~Listener() {
  const std::lock_guard lock(state().listeners_mutex);
  std::erase(state().listeners, this);
}

void set_rank(int rank, bool speaks) { speak_as({rank, speaks}); }
SpeakingRank this_rank() { return voice(); }
void speak_as(SpeakingRank rank) { voice() = rank; }

Capture::Capture() {
  const std::lock_guard lock(state().mutex);
  state().captured.emplace();
}
Capture::~Capture() {
  const std::lock_guard lock(state().mutex);
  state().captured.reset();
}
std::string Capture::text() const {
  const std::lock_guard lock(state().mutex);
  return state().captured.value_or("");
}

}  // namespace nereus::log
