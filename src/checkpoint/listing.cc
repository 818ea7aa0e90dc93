#include "checkpoint/listing.h"

#include <algorithm>

#include "base/check.h"

namespace nereus {

std::string first_of(std::span<const std::string> names, const char* separator) {
  constexpr size_t kShown = 5;
  const auto shown = names.first(std::min(kShown, names.size()));
  const std::string text = fmt::format("{}", fmt::join(shown, separator));
  return shown.size() == names.size()
             ? text
             : fmt::format("{} and {} more", text, names.size() - shown.size());
}

}  // namespace nereus
