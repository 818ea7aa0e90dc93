// A line of events.jsonl.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "report/json_lines.h"
#include "report/run.h"

namespace nereus::report {

struct EventLine {
  Event event;
  double setup_seconds = 0, seconds = 0, exit_code = kUnknown, ranks = kUnknown;
  std::vector<std::pair<std::string, std::string>> facts;  // in words: program, host, device, ...

  bool starts() const { return event.kind == "start" || event.kind == "resume"; }
  // Of a line that ends a run: "completed" or "ended".
  const char* how_it_ended() const { return exit_code == 0 ? "completed" : "ended"; }
};

// False: it is no event.
bool event_of(const std::vector<JsonField>& fields, EventLine& line);

}  // namespace nereus::report
