// A run from whatever is left of it: a folder of Nereus (metrics.jsonl), a log of TorchTitan or
// Nereus, a folder of TensorBoard's event files, or a folder that has one of these in it.
//
// Errors: Error{kConfig} that says what was looked for and where.
#pragma once

#include <string>

#include "report/run.h"

namespace nereus::report {

Run read_run(const std::string& path);

}  // namespace nereus::report
