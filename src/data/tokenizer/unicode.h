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

// White_Space: the same as UnicodeClass::space, without a table.
constexpr bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

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
