#include "data/utf8.h"

#include <cstring>

namespace nereus::data {

CodePoint decode_utf8(std::string_view text) {
  constexpr CodePoint kBad{0xFFFD, 1, false};
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  int length = 0;
  unsigned char low = 0x80, high = 0xBF;  // of the second byte
  char32_t value = 0;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
    value = lead & 0x1Fu;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    value = lead & 0x0Fu;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;  // surrogates
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    value = lead & 0x07u;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return kBad;
  }
  for (int i = 1; i < length; ++i) {
    const auto at = static_cast<size_t>(i);
    if (at >= text.size() || byte(at) < low || byte(at) > high) return {0xFFFD, i, false};
    value = (value << 6) | (byte(at) & 0x3Fu);
    low = 0x80;
    high = 0xBF;
  }
  return {value, length, true};
}

void append_utf8(char32_t c, std::string& out) {
  const auto put = [&](char32_t byte) { out += static_cast<char>(byte); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

bool is_valid_utf8(std::string_view text) {
  while (!text.empty()) {
    // Eight ASCII bytes at a time.
    while (text.size() >= 8) {
      uint64_t word;
      std::memcpy(&word, text.data(), 8);
      if ((word & 0x8080808080808080u) != 0) break;
      text.remove_prefix(8);
    }
    if (text.empty()) break;
    const CodePoint c = decode_utf8(text);
    if (!c.valid) return false;
    text.remove_prefix(static_cast<size_t>(c.length));
  }
  return true;
}

std::string replace_invalid_utf8(std::string_view text, int64_t* replaced) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const CodePoint c = decode_utf8(text);
    const auto length = static_cast<size_t>(c.length);
    if (c.valid) {
      out += text.substr(0, length);
    } else {
      out += "\xEF\xBF\xBD";
      if (replaced != nullptr) ++*replaced;
    }
    text.remove_prefix(length);
  }
  return out;
}

std::string Utf8Pieces::add(std::string_view bytes) {
  waiting_ += bytes;
  std::string_view rest = waiting_;
  while (!rest.empty()) {
    const CodePoint c = decode_utf8(rest);
    const auto lead = static_cast<unsigned char>(rest[0]);
    const bool begun = lead >= 0xC2 && lead <= 0xF4;
    if (!c.valid && begun && static_cast<size_t>(c.length) == rest.size()) break;  // more may come
    rest.remove_prefix(static_cast<size_t>(c.length));
  }
  const size_t whole = waiting_.size() - rest.size();
  std::string out = replace_invalid_utf8(std::string_view(waiting_).substr(0, whole));
  waiting_.erase(0, whole);
  return out;
}

std::string Utf8Pieces::finish() {
  std::string out = replace_invalid_utf8(waiting_);
  waiting_.clear();
  return out;
}

}  // namespace nereus::data
