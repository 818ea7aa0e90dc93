// DeepSeek-V3's three patterns by hand. Each works inside the pieces that the one before left:
//
//   1  \p{N}{1,3}
//   2  [一-龥぀-ゟ゠-ヿ]+
//   3  [ASCII punctuation][A-Za-z]+ | [^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+ | ␣?[\p{P}\p{S}]+[\r\n]*
//      | \s*[\r\n]+ | \s+(?!\S) | \s+
//
// 1 and 2 never meet in a code point, so that one scan makes their runs; 3 cannot match in a run of
// numbers, which stays a piece.
#include <algorithm>

#include "data/tokenizer/splitter.h"
#include "data/tokenizer/unicode.h"
#include "data/utf8.h"

namespace nereus::data {
namespace {

constexpr const char* kNumbers = R"(\p{N}{1,3})";
constexpr const char* kCjk = "[一-龥぀-ゟ゠-ヿ]+";
constexpr const char* kMain =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

bool is_cjk(char32_t c) { return (c >= 0x4E00 && c <= 0x9FA5) || (c >= 0x3040 && c <= 0x30FF); }
bool is_ascii_letter(unsigned char c) { return (c | 0x20) >= 'a' && (c | 0x20) <= 'z'; }
bool is_ascii_punctuation(unsigned char c) {
  return (c >= 0x21 && c <= 0x2F) || (c >= 0x3A && c <= 0x40) || (c >= 0x5B && c <= 0x60) ||
         (c >= 0x7B && c <= 0x7E);
}
bool is_newline(unsigned char c) { return c == '\r' || c == '\n'; }

class DeepseekSplitter final : public Splitter {
 public:
  void split(std::string_view text, std::vector<std::string_view>& pieces) const override {
    size_t begin = 0;  // of the run in hand
    for (size_t at = 0; at < text.size();) {
      size_t next = at;
      const char32_t c = point(text, next);
      const bool number = class_of(c) == UnicodeClass::number;
      if (!number && !is_cjk(c)) {
        at = next;
        continue;
      }
      main(text.substr(begin, at - begin), pieces);
      begin = at;
      if (number) {
        at = next;
        for (int digits = 1; digits < 3 && at < text.size(); ++digits) {
          next = at;
          if (class_of(point(text, next)) != UnicodeClass::number) break;
          at = next;
        }
        pieces.push_back(text.substr(begin, at - begin));
      } else {
        at = next;
        while (at < text.size()) {
          next = at;
          if (!is_cjk(point(text, next))) break;
          at = next;
        }
        main(text.substr(begin, at - begin), pieces);
      }
      begin = at;
    }
    main(text.substr(begin), pieces);
  }

 private:
  static char32_t point(std::string_view text, size_t& at) {
    const auto c = static_cast<unsigned char>(text[at]);
    if (c < 0x80) {
      ++at;
      return c;
    }
    const CodePoint p = decode_utf8(text.substr(at));
    at += static_cast<size_t>(p.length);
    return p.value;
  }
  UnicodeClass class_of(char32_t c) const { return table_[c]; }

  // Pattern 3 on one run.
  void main(std::string_view text, std::vector<std::string_view>& pieces) const {
    size_t gap = 0;  // start of what nothing has matched
    for (size_t at = 0; at < text.size();) {
      const size_t end = match(text, at);
      if (end == at) {  // no alternative: part of a gap
        point(text, at);
        continue;
      }
      if (gap < at) pieces.push_back(text.substr(gap, at - gap));
      pieces.push_back(text.substr(at, end - at));
      gap = at = end;
    }
    if (gap < text.size()) pieces.push_back(text.substr(gap));
  }

  // Where the match that starts at `at` ends; `at` itself when there is none.
  size_t match(std::string_view text, size_t at) const {
    const auto byte = [&](size_t i) {
      return i < text.size() ? static_cast<unsigned char>(text[i]) : static_cast<unsigned char>(0);
    };
    const unsigned char c = byte(at);
    if (is_ascii_punctuation(c) && is_ascii_letter(byte(at + 1))) {
      size_t end = at + 1;
      while (is_ascii_letter(byte(end))) ++end;
      return end;
    }
    size_t after = at;
    const UnicodeClass first = class_of(point(text, after));
    const bool word = first == UnicodeClass::letter || first == UnicodeClass::mark;
    const bool may_lead = first != UnicodeClass::letter && first != UnicodeClass::punctuation &&
                          first != UnicodeClass::symbol && !is_newline(c);
    if (word || may_lead) {
      const size_t end = letters(text, after);
      if (word || end > after) return end;
    }
    {
      size_t end = c == ' ' ? at + 1 : at;
      const size_t from = end;
      while (end < text.size()) {
        size_t next = end;
        const UnicodeClass k = class_of(point(text, next));
        if (k != UnicodeClass::punctuation && k != UnicodeClass::symbol) break;
        end = next;
      }
      if (end > from) {
        while (is_newline(byte(end))) ++end;
        return end;
      }
    }
    if (first != UnicodeClass::space) return at;
    // A run of white space: up to its last newline, else all but its last code point when something
    // follows, else all.
    size_t end = at, last_newline = 0, last = at;
    while (end < text.size()) {
      size_t next = end;
      if (class_of(point(text, next)) != UnicodeClass::space) break;
      if (is_newline(byte(end))) last_newline = next;
      last = end;
      end = next;
    }
    if (last_newline > 0) return last_newline;
    return end < text.size() && last > at ? last : end;
  }

  // The end of [\p{L}\p{M}]* from `at` on.
  size_t letters(std::string_view text, size_t at) const {
    while (at < text.size()) {
      size_t next = at;
      const UnicodeClass k = class_of(point(text, next));
      if (k != UnicodeClass::letter && k != UnicodeClass::mark) break;
      at = next;
    }
    return at;
  }

  UnicodeTable table_;
};

}  // namespace

// The file has line ends as they are, where our constants have \r and \n.
static std::string with_escapes(const std::string& pattern) {
  std::string out;
  for (const char c : pattern) out += c == '\r' ? "\\r" : c == '\n' ? "\\n" : std::string(1, c);
  return out;
}

bool are_deepseek_rules(const std::vector<SplitRule>& rules) {
  const char* const patterns[] = {kNumbers, kCjk, kMain};
  if (rules.size() != 3) return false;
  for (size_t i = 0; i < 3; ++i)
    if (with_escapes(rules[i].pattern) != patterns[i] || rules[i].literal || rules[i].invert ||
        rules[i].behavior != SplitRule::Behavior::isolated)
      return false;
  return true;
}

std::unique_ptr<Splitter> make_deepseek_splitter() { return std::make_unique<DeepseekSplitter>(); }

}  // namespace nereus::data
