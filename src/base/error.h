// The one exception type. Who is at fault decides how it is shown and which code the program ends
// with.
#pragma once

#include <stdexcept>
#include <string>

namespace nereus {

enum class Fault {
  kConfig,    // the user's: a setting, a file, a command line. Exit code 2, no source line.
  kContract,  // ours: an internal contract is violated. Exit code 70.
  kDevice,    // a GPU or its driver. Exit code 71.
  kComm,      // another rank, the network. Exit code 72.
  kIo,        // reading or writing failed while running. Exit code 74.
  kNumeric,   // NaN or Inf where there must be none. Exit code 73.
};

// `what()` is what a user reads, without a leading "error: ". For kConfig it says what was asked,
// the numbers, the rule and the remedy.
class Error : public std::runtime_error {
 public:
  Error(Fault fault, const std::string& message) : std::runtime_error(message), fault_(fault) {}
  Fault fault() const { return fault_; }
  int exit_code() const;

 private:
  Fault fault_;
};

// Throws an Error; kContract's message also names the condition and the place.
[[noreturn]] void fail(Fault fault, const char* condition, const char* file, int line,
                       const std::string& message);

}  // namespace nereus
