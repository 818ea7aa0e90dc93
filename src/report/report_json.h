// A report as JSON: the object that `nereus report --json` prints, and the data of the page.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "report/comparison.h"
#include "report/measure.h"
#include "report/run.h"

namespace nereus::report {

// {"runs":[{"path":..,"steps":..,"loss_first":..,"loss_last":..,"tokens_per_second":{"mean":..,
// "median":..,"stddev":..},"tokens_per_second_per_gpu":..,"window":[first,last],...}]} and, of
// several runs, "comparison". What is not known is null.
std::string summary_json(const std::vector<Run>& runs, std::optional<Window> window);

// Curves of at most so many bytes together, each with its extremes; and all else that the page
// shows. No "<" is in it.
std::string page_data(const std::vector<Run>& runs, std::optional<Window> window,
                      size_t curve_bytes);

}  // namespace nereus::report
