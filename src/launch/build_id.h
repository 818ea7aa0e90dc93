// Which build of the program this is.
#pragma once

#include <string>

namespace nereus {

// The first 12 digits of the build id that the linker put into the program; "" where it did not.
std::string build_id();

}  // namespace nereus
