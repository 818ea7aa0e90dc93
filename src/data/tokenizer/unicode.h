// Classes of code points as the regular expressions of tokenizer files have them: \p{L} \p{M} \p{N}
// \p{P} \p{S} and \s, which do not overlap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nereus::data {

enum class UnicodeClass : uint8_t { letter, mark, number, punctuation, symbol, space, other };

struct UnicodeRange {
  char32_t first, last;
  uint8_t unicode_class;
};
extern const UnicodeRange kUnicodeRanges[];
extern const size_t kUnicodeRangeCount;

class UnicodeTable {
 public:
  UnicodeTable();
  UnicodeClass operator[](char32_t c) const {
    return static_cast<UnicodeClass>(pages_[index_[c >> 8] + (c & 0xFF)]);
  }

 private:
  std::vector<uint32_t> index_;  // by c >> 8: where the page starts
  std::vector<uint8_t> pages_;
};

}  // namespace nereus::data
