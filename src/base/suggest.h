// "Did you mean ...?": the candidate nearest to what was written.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace nereus {

// The candidate with the smallest edit distance (insert, delete, replace, swap of neighbours), or
// "" when none is within a third of the length of `name` (at least 2).
std::string nearest(std::string_view name, std::span<const std::string> candidates);

}  // namespace nereus
