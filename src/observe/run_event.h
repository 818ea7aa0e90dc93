// What happens in a run besides steps: a line of events.jsonl.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace nereus {

// What each tells besides its text is in the comment (see RunEvent::facts).
enum class EventKind : uint8_t {
  start,       // run, start: ids; ranks; setup_seconds; program, host, device, parameters, layout.
               // A run that begins at step 0
  resume,      // the same; `step`: the one gone on from
  checkpoint,  // seconds: that training stood still; state: saved, staged, complete or failed
  validation,  // loss; seconds
  warning,     // a warning of the log
  rerun,       // steps that ran again for the experts' capacity, so far: reruns
  skip,        // training.skip_steps: first, last
  nonfinite,   // a loss or norm that is not finite, which ends the run
  error,       // any other error that ends the run
  signal,      // signal
  end,         // exit_code
};
std::string_view word(EventKind);

struct RunEvent {
  using Value = std::variant<int64_t, double, std::string>;
  EventKind kind;
  int64_t step = 0;  // the last one done
  std::string text = {};
  std::vector<std::pair<const char*, Value>> facts = {};
  double time = 0;  // Unix seconds; SinkGroup's
};

// A line of the log.
struct LogLine {
  double time = 0;  // Unix seconds
  bool warning = false;
  std::string text;
};

}  // namespace nereus
