// Configurations as ranks show them to each other: lines of "key=value".
#pragma once

#include <string>

namespace nereus {

// "" when both have the same values by key, in whatever order; otherwise a message with the first
// key, in the order of `a`, that has not, both values and who has them.
std::string first_difference(const std::string& a, const std::string& b, const std::string& who_a,
                             const std::string& who_b);

}  // namespace nereus
