#include <algorithm>
#include <cctype>
#include <cmath>

#include "base/check.h"
#include "report/json_lines.h"
#include "report/run_files.h"

namespace nereus::report {
namespace {

constexpr size_t kMostEvents = 2000;

struct Line {
  Event event;
  double setup_seconds = 0, seconds = 0, exit_code = kUnknown, ranks = kUnknown;
  std::vector<std::pair<std::string, std::string>> facts;  // in words: program, host, device, ...
};

// False: it is no event.
bool event_of(const std::vector<JsonField>& fields, Line& line) {
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
  return !line.event.kind.empty();
}

class Starts {
 public:
  explicit Starts(Run& run) : run_(run) {}

  void take(const Line& line) {
    const Event& e = line.event;
    if (e.kind == "start" || e.kind == "resume") {
      find(e.step.value_or(0));
      if (Start* s = now()) {
        s->begin = e.time - line.setup_seconds;
        s->end = e.time;
        s->set_up = line.setup_seconds;
      }
      if (!std::isnan(line.ranks)) run_.ranks = line.ranks;
      for (auto& [name, value] : run_.environment = line.facts)
        name[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(name[0])));
      run_.completed = false;
      return;
    }
    Start* const s = now();
    if (s == nullptr) return;
    if (e.time >= s->end - 1) s->end = std::max(s->end, e.time);
    if (e.kind == "checkpoint") s->saving += line.seconds;
    if (e.kind == "validation") s->validating += line.seconds;
    if ((e.kind == "checkpoint" || e.kind == "validation") && e.step >= s->first &&
        e.step < s->last)
      s->stalled += line.seconds;  // the next logged step's seconds have it in them
    if (e.kind == "signal" || e.kind == "error" || e.kind == "nonfinite") s->ended = e.kind;
    if (e.kind == "end" && s->ended.empty()) {
      s->ended = line.exit_code == 0 ? "completed" : "ended";
      run_.completed = line.exit_code == 0;
    }
  }

 private:
  // A start that goes on after `step`: the next whose first logged step is the one behind it.
  void find(int64_t step) {
    for (size_t i = at_; i < run_.starts.size(); ++i)
      if (run_.starts[i].first == step + 1) {
        at_ = i + 1;
        return;
      }
    // It logged no step: one of its own, before those that are left.
    run_.starts.insert(run_.starts.begin() + static_cast<std::ptrdiff_t>(at_), Start());
    ++at_;
  }
  Start* now() { return at_ == 0 ? nullptr : &run_.starts[at_ - 1]; }

  Run& run_;
  size_t at_ = 0;  // starts that have been told of
};

}  // namespace

void read_events(const std::string& path, Run& run) {
  JsonLines lines(path);
  std::erase_if(run.starts, [](const Start& s) { return s.last == 0; });
  Starts starts(run);
  int64_t bad = 0;
  for (std::vector<JsonField> fields; lines.next(fields);) {
    Line line;
    if (!event_of(fields, line)) {
      ++bad;
      continue;
    }
    starts.take(line);
    line.event.seconds = line.event.kind == "start" || line.event.kind == "resume"
                             ? line.setup_seconds
                             : line.seconds;
    ++run.event_counts[line.event.kind];
    if (run.events.size() < kMostEvents) run.events.push_back(std::move(line.event));
  }
  bad += lines.unreadable() - (lines.half_written() ? 1 : 0);
  if (bad > 0)
    run.notes.push_back(fmt::format("events.jsonl: {} line{} no event; left out.", bad,
                                    bad == 1 ? " is" : "s are"));
  double before = kUnknown;
  for (const Start& s : run.starts) {
    if (s.begin < before - 1)
      run.notes.push_back(fmt::format(
          "The clock jumped back by {:.0f} s between two starts: the time between them is not "
          "known and counts as none.",
          before - s.begin));
    if (!std::isnan(s.end)) before = s.end;
  }
}

}  // namespace nereus::report
