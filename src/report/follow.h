// A run while it goes on: what its files got since they were last looked at. However large they
// are, only their last part is read at first.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>

#include "report/run.h"

namespace nereus::report {

class RunFollower {
 public:
  // A run's folder, or a job's with outputs/ in it. Throws Error{kConfig} when it has no
  // metrics.jsonl.
  explicit RunFollower(const std::string& path);

  void look();  // reads on

  struct Line {
    int64_t step = 0;
    std::map<std::string, double> figures;  // by the names of metrics.jsonl
  };
  static constexpr size_t kMost = 512;
  const std::deque<Line>& lines() const { return lines_; }  // the last logged steps
  const std::deque<Event>& events() const { return events_; }
  double validation_loss = kUnknown;
  int64_t validated_step = 0;
  int64_t ranks = 0, total_steps = 0;  // 0: not known
  std::string name, description, model;
  double seconds_quiet = 0;  // since metrics.jsonl grew
  std::string ended;         // how, "" while nothing says so

  double last(const std::string& figure) const;  // NaN when the last line has none

 private:
  struct Tail {           // of a file that grows
    int64_t offset = -1;  // -1: not read yet
    uint64_t inode = 0;
  };
  bool at(const std::string& path, Tail& tail, int64_t& from) const;
  void read_metrics();
  void read_events();
  void read_settings();

  std::string folder_;
  Tail metrics_, told_;
  std::deque<Line> lines_;
  std::deque<Event> events_;
};

}  // namespace nereus::report
