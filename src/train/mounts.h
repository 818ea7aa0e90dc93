// Before a run looks at anything: the places that it reads and writes answer.
#pragma once

#include <chrono>

#include "config/job_config.h"

namespace nereus {

// Throws Error{kConfig} with the key, the path and its mount when a file system says nothing within
// `limit`. For the start of a process: base/mount_answer.h.
void check_mounts(const JobConfig&, std::chrono::milliseconds limit = std::chrono::seconds(60));

}  // namespace nereus
