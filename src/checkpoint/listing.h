// Lists in messages.
#pragma once

#include <span>
#include <string>

namespace nereus {

// The first few and the number of the others: "a, b, c, d, e and 12 more".
std::string first_of(std::span<const std::string> names, const char* separator = ", ");

}  // namespace nereus
