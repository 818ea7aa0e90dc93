#include "report/event_line.h"

namespace nereus::report {

bool event_of(const std::vector<JsonField>& fields, EventLine& line) {
  for (const JsonField& f : fields) {
    const bool number = f.kind == JsonField::Kind::number;
    const bool own = f.key == "kind" || f.key == "text" || f.key == "run" || f.key == "start";
    if (f.kind == JsonField::Kind::text && !own) line.facts.emplace_back(f.key, f.text);
    if (f.key == "time" && number) line.event.time = f.number;
    if (f.key == "step" && number) line.event.step = static_cast<int64_t>(f.number);
    if (f.key == "kind") line.event.kind = f.text;
    if (f.key == "text") line.event.text = f.text;
    if (f.key == "seconds" && number) line.seconds = f.number;
    if (f.key == "setup_seconds" && number) line.setup_seconds = f.number;
    if (f.key == "exit_code" && number) line.exit_code = f.number;
    if (f.key == "ranks" && number) line.ranks = f.number;
  }
  line.event.seconds = line.starts() ? line.setup_seconds : line.seconds;
  return !line.event.kind.empty();
}

}  // namespace nereus::report
