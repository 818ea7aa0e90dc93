#include <algorithm>
#include <cctype>
#include <cmath>

#include "base/check.h"
#include "report/event_line.h"
#include "report/run_files.h"

namespace nereus::report {
namespace {

class Starts {
 public:
  explicit Starts(Run& run) : run_(run) {}

  void take(const EventLine& line) {
    const Event& e = line.event;
    if (line.starts()) {
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
      s->ended = line.how_it_ended();
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
    EventLine line;
    if (!event_of(fields, line)) {
      ++bad;
      continue;
    }
    starts.take(line);
    run.add_event(std::move(line.event));
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
