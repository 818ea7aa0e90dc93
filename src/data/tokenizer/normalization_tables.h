// Unicode's tables of normalization, as text: hexadecimal numbers between blanks, ';' after each
// entry. Hangul is not in them. Read once, by Normalizer.
#pragma once

#include <cstddef>
#include <iterator>
#include <string_view>

namespace nereus::data {

extern const std::string_view kCanonical[];  // a point, its full canonical decomposition
extern const size_t kCanonicalCount;
extern const std::string_view kCompatible[];  // likewise, where that of compatibility differs
extern const size_t kCompatibleCount;
extern const std::string_view kCompositions[];  // two points, what they compose to
extern const size_t kCompositionsCount;
extern const std::string_view kCombining[];  // the first and last of a range, its combining class
extern const size_t kCombiningCount;

}  // namespace nereus::data
