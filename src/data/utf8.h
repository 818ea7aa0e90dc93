// UTF-8, decoded and repaired as Python's bytes.decode("utf-8", errors="replace") and Rust's
// from_utf8_lossy do it: each maximal ill-formed part becomes one U+FFFD (Unicode 15, section 3.9).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace nereus::data {

struct CodePoint {
  char32_t value;  // U+FFFD for an ill-formed part
  int length;      // bytes consumed, at least 1
  bool valid;
};

// The code point at the start of `text`, which must not be empty.
CodePoint decode_utf8(std::string_view text);

void append_utf8(char32_t c, std::string& out);

bool is_valid_utf8(std::string_view text);

// Ill-formed parts replaced; `replaced` (may be null) is increased by their number.
std::string replace_invalid_utf8(std::string_view text, int64_t* replaced = nullptr);

// The same of text whose bytes come one after the other, for readers who want it at once: a
// character is handed on when its last byte has come.
class Utf8Pieces {
 public:
  std::string add(std::string_view bytes);
  std::string finish();  // what waits for bytes that will not come: U+FFFD

 private:
  std::string waiting_;
};

}  // namespace nereus::data
