#include "config/rank_list.h"

#include <charconv>

#include "base/text.h"

namespace nereus {

Integers ranks_of_list(const std::string& text) {
  Integers out;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string number = trimmed(std::string_view(text).substr(begin, end - begin));
    int64_t rank = -1;
    const auto [rest, error] = std::from_chars(number.data(), number.data() + number.size(), rank);
    if (error != std::errc() || rest != number.data() + number.size() || rank < 0) return {};
    out.push_back(rank);
    begin = end + 1;
  }
  return out;
}

}  // namespace nereus
