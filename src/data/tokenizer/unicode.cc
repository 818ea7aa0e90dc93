#include "data/tokenizer/unicode.h"

#include <algorithm>
#include <array>

namespace nereus::data {

UnicodeTable::UnicodeTable() : index_(0x1100) {
  constexpr auto kOther = static_cast<uint8_t>(UnicodeClass::other);
  std::vector<uint8_t> all(0x110000, kOther);
  for (size_t i = 0; i < kUnicodeRangeCount; ++i) {
    const UnicodeRange& r = kUnicodeRanges[i];
    std::fill(all.begin() + r.first, all.begin() + r.last + 1, r.unicode_class);
  }
  // Equal pages are kept once: most are.
  for (size_t page = 0; page < index_.size(); ++page) {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(page * 256);
    size_t at = 0;
    while (at < pages_.size() &&
           !std::equal(begin, begin + 256, pages_.begin() + static_cast<std::ptrdiff_t>(at)))
      at += 256;
    if (at == pages_.size()) pages_.insert(pages_.end(), begin, begin + 256);
    index_[page] = static_cast<uint32_t>(at);
  }
}

}  // namespace nereus::data
