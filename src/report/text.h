// A report as lines for a terminal.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "report/measure.h"
#include "report/run.h"

namespace nereus::report {

// Some lines a run, and where several first differ.
std::string text(const std::vector<Run>& runs, std::optional<Window> window = std::nullopt);

// One line: "loss 12.31 to 7.01 in 200 steps; 1,300 tokens/s ...".
std::string one_line(const Run& run);

// Four digits, and thousands apart: 0.1234, 12.34, 1,234, 1,234,567; "?" when not known.
std::string figure(double x);

// 45 s, 12.0 min, 3 h 05 min, 2 d 04 h
std::string duration(double seconds);

}  // namespace nereus::report
