// What `nereus top` shows: a run's last figures on a terminal of any size.
#pragma once

#include <string>
#include <vector>

#include "report/follow.h"

namespace nereus::report {

struct Screen {
  int columns = 80, rows = 24;
  bool blocks = true;  // bars of Unicode's block elements, else of ASCII
  bool color = false;
};

// At most `rows` lines of at most `columns` characters, the most important first.
std::vector<std::string> top_screen(const RunFollower& run, const Screen& screen);

// "▁▂▅█": the values' course in `columns` characters, the last ones on the right; of more values
// the mean of those in a place.
std::string sparkline(const std::vector<double>& values, int columns, bool blocks);

}  // namespace nereus::report
