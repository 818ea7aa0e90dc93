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

}  // namespace nereus::log
