// Checks of what is outside of the program: the hub, the clock, libraries that are opened at run
// time.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "doctor/finding.h"
#include "hub/http.h"

namespace nereus::doctor {

// Whether the hub answers, and how its clock differs from ours (with `clock`).
std::vector<Finding> check_hub(const hub::HubSettings&, const hub::HttpTimeouts&, bool clock);

// Against the time server HOST or HOST:PORT (NTP).
Finding check_time_server(const std::string& server);
// Whether the kernel reports that its clock is synchronised.
Finding check_kernel_clock();

// Seconds since 1970 of a Date header; none when it is not one.
std::optional<double> http_date(const std::string& text);

// CUDA runtime, cuDNN, NCCL. `gpus`: how many the node has.
std::vector<Finding> check_libraries(int gpus);

}  // namespace nereus::doctor
