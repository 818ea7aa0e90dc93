// Numbers of ranks in a setting: "0,8,16".
#pragma once

#include <string>

#include "config/job_config.h"

namespace nereus {

// Empty for a text that is no such list.
Integers ranks_of_list(const std::string& text);

}  // namespace nereus
