// What the files of a run's data sets are, by a look at them: for --dry-run, which needs none.
#pragma once

#include <string>

#include "config/job_config.h"

namespace nereus {

// A line for the training set and, where it is enabled, one for validation's: how many shards, the
// first and the last, their bytes; below it what cannot be read, with remedies. A set that is not
// there is one line, not an error.
std::string data_facts(const JobConfig&);

}  // namespace nereus
