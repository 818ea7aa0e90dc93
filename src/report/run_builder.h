// Puts a run together from what its files say, line by line: which steps count when a later start
// did some again, what each start's time went to, clocks that jump back.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "report/run.h"

namespace nereus::report {

class RunBuilder {
 public:
  explicit RunBuilder(Run& run) : run_(run) {}

  // The process started (again): at `time`, when known. Steps logged from here on replace those of
  // the same numbers.
  void start(double time = kUnknown);

  // A figure of the step that step_end() will name. `name`: of metrics.jsonl, or any other. Fast
  // when all steps have theirs in the same order.
  void figure(std::string_view name, double value);
  // Ends a logged step. One that is not behind the last one begins a start of its own. Without a
  // step_seconds among its figures, `time` tells how long its steps took; seen() is told apart.
  void step_end(int64_t step, double time = kUnknown);

  void validation(int64_t step, double loss);
  // Training stood still; of the current start, whose `saving` or so has it too.
  void stalled(double seconds) { stalled_ += seconds; }
  // A line with a time: the start began before it and ends behind it.
  void seen(double time);
  Start& current();  // the start that goes on

  // After the last line.
  void finish();

 private:
  struct Column {  // what figure() does with a name
    std::string name;
    Samples* samples = nullptr;
    double LoggedStep::*member = nullptr;
    double RunBuilder::*own = nullptr;
  };
  struct Figure {
    Samples* samples;
    double value;
  };
  size_t column(std::string_view name);
  void rewind(int64_t step);
  void take_time(double time);  // of step_, where nothing else tells its seconds
  void count_tokens();
  void keep();
  void thin_out();

  Run& run_;
  LoggedStep step_;
  std::vector<Column> columns_;
  std::vector<Figure> figures_;                               // of the step that is not ended
  double tokens_seen_ = kUnknown, tokens_before_ = kUnknown;  // now, at the logged step before
  double last_time_ = kUnknown, overflows_ = 0, overflows_before_ = 0;
  int64_t lines_ = 0;
  bool fresh_ = false;  // no step since start()
  double jumped_back_ = 0;
  double stalled_ = 0;  // since the last step that was logged
  int64_t jumps_ = 0;
  size_t next_column_ = 0;
};

}  // namespace nereus::report
