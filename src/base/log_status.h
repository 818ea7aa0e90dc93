// Lines at the bottom of a terminal that stay in place while the log goes on above them: a bar, and
// under it a line of the log that each next one replaces.
//
//   [############------------------]  41 %  step 82 of 200, 1.20 s a step, 1:22 left
//   [titan] 2025-10-02 20:23:53,470 - root - INFO - step: 82  loss:  8.0123 ...
//
// Where nothing can stay in place (a pipe, a file, TERM=dumb) the log's lines are what they are
// without it.
#pragma once

#include <string>
#include <string_view>

namespace nereus::log {

// Is standard output a terminal that lines can stay on?
bool on_terminal();
int terminal_columns();  // of standard output; 80 when it does not say

// Of the rank that made it; one at a time in a process.
class Status {
 public:
  Status() = default;
  ~Status() { end(); }
  Status(const Status&) = delete;
  Status& operator=(const Status&) = delete;

  void bar(const std::string& text);
  // A message of level info, told to listeners too; it takes the place of the one before.
  void line(std::string_view message);
  // The bar goes, the last line becomes one of the log.
  void end();
};

// The first `columns` characters of a line of UTF-8, and all of its ANSI colours.
std::string cut_to_columns(std::string_view text, int columns);

}  // namespace nereus::log
