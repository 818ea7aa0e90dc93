#include "base/log.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <mutex>
#include <optional>
#include <vector>

#include "base/log_listener.h"
#include "base/log_output.h"
#include "base/log_rank.h"
#include "base/log_status.h"
#include "base/plain_write.h"

namespace nereus::log {
namespace {

struct State {
  std::mutex mutex;
  Level lowest = Level::info;
  int file = STDOUT_FILENO;
  bool plain = false;
  std::optional<std::string> captured;
  std::string bar, line;       // that stay in place (Status)
  int drawn = 0;               // lines of them on the terminal
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

namespace {

void tell_listeners(Level level, std::string_view message) {
  State& s = state();
  if (level < Level::info) return;
  const std::lock_guard lock(s.listeners_mutex);
  for (const Listener* l : s.listeners) l->tell(voice().rank, level >= Level::warning, message);
}

// With its end.
std::string full_line(const State& s, Level level, std::string_view message) {
  if (s.plain) return fmt::format("{}: {}\n", name(level), message);
  const std::string label = voice().rank < 0 ? "" : fmt::format("[rank{}]:", voice().rank);
  return fmt::format("{}[titan] {} - root - {} - {}\n", label, timestamp(), name(level), message);
}

// `text`, in the place of what is drawn, and below it what stays there.
void put_above(State& s, const std::string& text) {
  std::string out = s.drawn > 0 ? fmt::format("\033[{}A\r\033[J", s.drawn) : "";
  out += text;
  s.drawn = 0;
  const int columns = terminal_columns() - 1;
  for (const std::string* line : {&s.bar, &s.line})
    if (!line->empty()) {
      out += cut_to_columns(*line, columns) + "\n";
      ++s.drawn;
    }
  plain_write(s.file, out);
}

bool stays_in_place(const State& s) { return s.drawn > 0 && s.file == STDOUT_FILENO; }

}  // namespace

void write(Level level, std::string_view message) {
  State& s = state();
  tell_listeners(level, message);
  if (!voice().speaks && level < Level::error) return;
  const std::lock_guard lock(s.mutex);
  const std::string line = full_line(s, level, message);
  if (s.captured) {
    *s.captured += line;
    return;
  }
  if (level < s.lowest) return;
  if (stays_in_place(s))
    put_above(s, line);
  else
    plain_write(s.file, line);
}

void Status::bar(const std::string& text) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (!voice().speaks || s.captured || s.file != STDOUT_FILENO) return;
  s.bar = text;
  put_above(s, "");
}

void Status::line(std::string_view message) {
  State& s = state();
  tell_listeners(Level::info, message);
  if (!voice().speaks) return;
  const std::lock_guard lock(s.mutex);
  const std::string line = full_line(s, Level::info, message);
  if (s.captured) {
    *s.captured += line;
  } else if (s.lowest <= Level::info) {
    s.line = line.substr(0, line.size() - 1);
    put_above(s, "");
  }
}

void Status::end() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  const std::string last = s.line.empty() ? "" : s.line + "\n";
  s.bar.clear();
  s.line.clear();
  if (s.drawn > 0) put_above(s, last);
}

bool on_terminal() {
  const char* const term = std::getenv("TERM");
  return term != nullptr && *term != 0 && std::string_view(term) != "dumb" &&
         ::isatty(STDOUT_FILENO) != 0;
}

int terminal_columns() {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::string cut_to_columns(std::string_view text, int columns) {
  std::string out;
  int n = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\033') {
      const size_t end = std::min(text.find('m', i), text.size() - 1);
      out += text.substr(i, end - i + 1);
      i = end;
      continue;
    }
    if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) ++n;
    if (n <= columns) out += text[i];
  }
  return out;
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
