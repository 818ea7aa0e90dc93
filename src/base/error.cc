#include "base/error.h"

namespace nereus {

int Error::exit_code() const {
  switch (fault_) {
    case Fault::kConfig:
      return 2;
    case Fault::kContract:
      return 70;
    case Fault::kDevice:
      return 71;
    case Fault::kComm:
      return 72;
    case Fault::kNumeric:
      return 73;
    case Fault::kIo:
      return 74;
  }
  return 70;
}

void fail(Fault fault, const char* condition, const char* file, int line,
          const std::string& message) {
  if (fault != Fault::kContract) throw Error(fault, message);
  throw Error(fault, message + "\n  violated: " + condition + "\n  at " + file + ":" +
                         std::to_string(line));
}

}  // namespace nereus
