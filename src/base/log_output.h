// Where the log's lines go, for programs whose standard output is their result.
#pragma once

namespace nereus::log {

// While one lives, lines go to standard error.
class ToStandardError {
 public:
  ToStandardError();
  ~ToStandardError();
  ToStandardError(const ToStandardError&) = delete;
  ToStandardError& operator=(const ToStandardError&) = delete;
};

// While one lives, lines are for people at a terminal: "WARNING: message", on standard error.
class PlainLines {
 public:
  PlainLines();
  ~PlainLines();
  PlainLines(const PlainLines&) = delete;
  PlainLines& operator=(const PlainLines&) = delete;
};

}  // namespace nereus::log
