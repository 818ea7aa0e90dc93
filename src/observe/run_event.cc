#include "observe/run_event.h"

namespace nereus {

std::string_view word(EventKind kind) {
  switch (kind) {
    case EventKind::start:
      return "start";
    case EventKind::resume:
      return "resume";
    case EventKind::checkpoint:
      return "checkpoint";
    case EventKind::validation:
      return "validation";
    case EventKind::warning:
      return "warning";
    case EventKind::rerun:
      return "rerun";
    case EventKind::skip:
      return "skip";
    case EventKind::nonfinite:
      return "nonfinite";
    case EventKind::error:
      return "error";
    case EventKind::signal:
      return "signal";
    case EventKind::end:
      return "end";
  }
  return "";
}

}  // namespace nereus
