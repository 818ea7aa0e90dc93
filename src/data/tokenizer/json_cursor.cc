#include "data/tokenizer/json_cursor.h"

#include <algorithm>
#include <charconv>

#include "base/check.h"
#include "data/utf8.h"

namespace nereus::data {
namespace {

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

}  // namespace

void JsonCursor::fail(const std::string& what) const {
  const std::string_view before = text_.substr(0, at_);
  if (at_ >= text_.size())
    NEREUS_FAIL(kConfig,
                "{}: is not a tokenizer.json: it ends after {} bytes, where {}\n  It may have been "
                "cut short: copy or download it again.",
                name_, text_.size(), what);
  NEREUS_FAIL(kConfig, "{}: is not a tokenizer.json: line {}: {}", name_,
              1 + std::count(before.begin(), before.end(), '\n'), what);
}

char JsonCursor::peek() {
  while (at_ < text_.size() && is_space(text_[at_])) ++at_;
  return at_ < text_.size() ? text_[at_] : '\0';
}

bool JsonCursor::take(char c) {
  if (peek() != c || at_ >= text_.size()) return false;
  ++at_;
  return true;
}

void JsonCursor::expect(char c) {
  if (!take(c)) fail(fmt::format("'{}' is expected", c));
}

std::string_view JsonCursor::string() {
  expect('"');
  const size_t begin = at_;
  bool escapes = false, ascii = true;
  for (;; ++at_) {
    if (at_ >= text_.size()) fail("a string has no end");
    const auto c = static_cast<unsigned char>(text_[at_]);
    if (c == '"') break;
    if (c < 0x20) fail("a string holds a control character");
    if (c >= 0x80) ascii = false;
    if (c == '\\') {
      if (!escapes) unescaped_.assign(text_, begin, at_ - begin);
      escapes = true;
      ++at_;
      escape(unescaped_);
      --at_;
    } else if (escapes) {
      unescaped_ += static_cast<char>(c);
    }
  }
  const std::string_view raw = text_.substr(begin, at_ - begin);
  if (!ascii && !is_valid_utf8(raw)) fail("a string is not UTF-8");
  ++at_;
  return escapes ? std::string_view(unescaped_) : raw;
}

unsigned JsonCursor::hex4() {
  unsigned value = 0;
  const char* const from = text_.data() + std::min(at_, text_.size());
  const char* const to = text_.data() + std::min(at_ + 4, text_.size());
  const auto [end, error] = std::from_chars(from, to, value, 16);
  if (error != std::errc() || end != from + 4) fail("\\u needs four hexadecimal digits");
  at_ += 4;
  return value;
}

// What follows a backslash.
void JsonCursor::escape(std::string& out) {
  if (at_ >= text_.size()) fail("a string has no end");
  const char c = text_[at_++];
  switch (c) {
    case '"':
    case '\\':
    case '/':
      out += c;
      return;
    case 'b':
      out += '\b';
      return;
    case 'f':
      out += '\f';
      return;
    case 'n':
      out += '\n';
      return;
    case 'r':
      out += '\r';
      return;
    case 't':
      out += '\t';
      return;
    case 'u':
      break;
    default:
      fail(fmt::format("\\{} is no escape", c));
  }
  char32_t value = hex4();
  if (value >= 0xD800 && value < 0xE000) {
    const bool high = value < 0xDC00 && text_.substr(at_).starts_with("\\u");
    at_ += high ? 2 : 0;
    const char32_t low = high ? hex4() : 0;
    if (low < 0xDC00 || low >= 0xE000) fail("\\u names half of a surrogate pair");
    value = 0x10000 + ((value - 0xD800) << 10) + (low - 0xDC00);
  }
  append_utf8(value, out);
}

int64_t JsonCursor::integer() {
  peek();
  int64_t value = 0;
  const char* const from = text_.data() + at_;
  const auto [end, error] = std::from_chars(from, text_.data() + text_.size(), value);
  if (error != std::errc()) fail("an integer is expected");
  at_ += static_cast<size_t>(end - from);
  return value;
}

void JsonCursor::skip_string() {
  for (++at_; at_ < text_.size(); ++at_) {
    if (text_[at_] == '\\') {
      ++at_;
    } else if (text_[at_] == '"') {
      ++at_;
      return;
    }
  }
  at_ = text_.size();
  fail("a string has no end");
}

void JsonCursor::skip() {
  constexpr int kDeepest = 100;
  int depth = 0;
  do {
    const char c = peek();
    if (at_ >= text_.size()) fail("a value is expected");
    if (c == '"') {
      skip_string();
    } else if (c == '{' || c == '[') {
      ++at_;
      if (++depth > kDeepest) fail(fmt::format("brackets nest deeper than {}", kDeepest));
    } else if (c == '}' || c == ']') {
      ++at_;
      if (--depth < 0) fail("a value is expected");
    } else if (c == ',' || c == ':') {
      if (depth == 0) fail("a value is expected");
      ++at_;
    } else {  // a number or a word
      while (at_ < text_.size() && !is_space(text_[at_]) &&
             std::string_view(",:{}[]\"").find(text_[at_]) == std::string_view::npos)
        ++at_;
    }
  } while (depth > 0);
}

}  // namespace nereus::data
