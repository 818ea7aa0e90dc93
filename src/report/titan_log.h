// Logs of TorchTitan, and Nereus' own, which have the same lines:
//
//   [rank448]:[titan] 2025-10-02 20:23:53,470 - root - INFO - step: 10  loss:  8.0123  grad_norm:
//     1.0000  memory:  1.25GiB(3.12%)  tps: 1,234  tflops: 0.10  mfu: 0.01%
//
// coloured or not, of one rank or of many at once, with or without torchrun's or srun's label. Of
// many ranks one counts: the first that knows the loss (ranks without the last stage say -1).
#pragma once

#include <string>

#include "report/run_builder.h"

namespace nereus::report {

// Reads it to its end. False when it has no step line.
bool read_titan_log(const std::string& path, Run& run, RunBuilder& builder);

// The seconds of "2025-10-02 20:23:53,470" since 1970, as if it were UTC; NaN when `text` does not
// begin so.
double log_time(std::string_view text);

}  // namespace nereus::report
