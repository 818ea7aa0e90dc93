#include "data/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <new>

#include "base/check.h"

namespace nereus::data {
namespace {

// White_Space, and its complement; PCRE2's \s has U+180E too.
constexpr std::string_view kSpace =
    R"(\x09-\x0D\x20\x85\xA0\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
constexpr std::string_view kNotSpace =
    R"(\x00-\x08\x0E-\x1F\x21-\x84\x86-\x9F\xA1-\x{167F}\x{1681}-\x{1FFF}\x{200B}-\x{2027})"
    R"(\x{202A}-\x{202E}\x{2030}-\x{205E}\x{2060}-\x{2FFF}\x{3001}-\x{10FFFF})";
// Oniguruma's \w: Alphabetic, Mark, decimal digits, connectors, and the six numbers of Latin-1.
constexpr std::string_view kWord =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\xB2\xB3\xB9\xBC-\xBE\x{24B6}-\x{24E9}\x{1F130}-\x{1F149})"
    R"(\x{1F150}-\x{1F169}\x{1F170}-\x{1F189})";

class Translator {
 public:
  explicit Translator(const std::string& pattern) : pattern_(pattern) {}

  std::string run() {
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (c == '\\') {
        escape(/*in_class=*/false);
      } else if (c == '[') {
        character_class();
      } else if (c == '(' && pattern_.compare(at_, 2, "(?") == 0) {
        group_options();
      } else {
        copy(1);
      }
    }
    return std::move(out_);
  }

 private:
  void copy(size_t count) {
    out_.append(pattern_, at_, count);
    at_ += count;
  }
  [[noreturn]] void refuse(const char* what) const {
    NEREUS_FAIL(kConfig,
                "tokenizer.json: the pre_tokenizer pattern {} has {} at offset {}, which is not "
                "supported",
                pattern_, what, at_);
  }

  void escape(bool in_class) {
    const char c = at_ + 1 < pattern_.size() ? pattern_[at_ + 1] : '\0';
    const auto put = [&](std::string_view members, bool complement) {
      out_ += in_class ? "" : complement ? "[^" : "[";
      out_ += members;
      out_ += in_class ? "" : "]";
      at_ += 2;
    };
    switch (c) {
      case 's':
        return put(kSpace, false);
      case 'S':
        return in_class ? put(kNotSpace, false) : put(kSpace, true);
      case 'w':
        return put(kWord, false);
      case 'W':
        if (in_class) refuse("\\W in brackets");
        return put(kWord, true);
      case 'h':  // hexadecimal digits to Oniguruma, white space to PCRE2
        return put("0-9A-Fa-f", false);
      case 'H':
        if (in_class) refuse("\\H in brackets");
        return put("0-9A-Fa-f", true);
      default:
        return copy(2);
    }
  }

  void character_class() {
    copy(1);
    if (at_ < pattern_.size() && pattern_[at_] == '^') copy(1);
    if (at_ < pattern_.size() && pattern_[at_] == ']') copy(1);  // a member when it is first
    while (at_ < pattern_.size() && pattern_[at_] != ']') {
      const char c = pattern_[at_];
      if (c == '\\') {
        escape(/*in_class=*/true);
      } else if (c == '[' && pattern_.compare(at_, 2, "[:") == 0) {
        const size_t end = pattern_.find(":]", at_);
        if (end == std::string::npos) refuse("[: without :]");
        copy(end + 2 - at_);
      } else if (c == '[') {
        refuse("a class in a class");
      } else if (c == '&' && pattern_.compare(at_, 2, "&&") == 0) {
        refuse("an intersection of classes");
      } else {
        copy(1);
      }
    }
    if (at_ < pattern_.size()) copy(1);
  }

  // (?m) is PCRE2's (?s).
  void group_options() {
    copy(2);
    while (at_ < pattern_.size() &&
           (std::isalpha(static_cast<unsigned char>(pattern_[at_])) || pattern_[at_] == '-')) {
      const char c = pattern_[at_];
      if (c != 'i' && c != 'm' && c != 'x' && c != '-') return;  // not options
      out_ += c == 'm' ? 's' : c;
      ++at_;
    }
  }

  const std::string& pattern_;
  size_t at_ = 0;
  std::string out_;
};

}  // namespace

struct Regex::Code {
  explicit Code(pcre2_code* c) : code(c) {}
  ~Code() { pcre2_code_free(code); }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  pcre2_code* code;
};

struct Regex::Search::Data {
  explicit Data(pcre2_match_data* d) : data(d) {}
  ~Data() { pcre2_match_data_free(data); }
  Data(const Data&) = delete;
  Data& operator=(const Data&) = delete;
  pcre2_match_data* data;
};

Regex::Regex(const std::string& pattern) : pattern_(pattern) {
  const std::string translated = Translator(pattern).run();
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (code == nullptr) {
    std::array<PCRE2_UCHAR, 256> text{};
    pcre2_get_error_message(error, text.data(), text.size());
    NEREUS_FAIL(kConfig, "tokenizer.json: the pre_tokenizer pattern {} does not compile: {}",
                pattern, reinterpret_cast<const char*>(text.data()));
  }
  code_ = std::make_unique<Code>(code);
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where it cannot, PCRE2 interprets
}
Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;

Regex::Search::Search(const Regex& regex)
    : regex_(regex),
      data_(std::make_unique<Data>(
          pcre2_match_data_create_from_pattern(regex.code_->code, nullptr))) {
  if (data_->data == nullptr) throw std::bad_alloc();
}
Regex::Search::~Search() = default;

std::optional<Regex::Match> Regex::Search::next(std::string_view text, size_t from) {
  const auto match = [&](uint32_t options) {
    return pcre2_match(regex_.code_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                       from, PCRE2_NO_UTF_CHECK | options, data_->data, nullptr);
  };
  int found = match(0);
  if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = match(PCRE2_NO_JIT);  // has the heap
  if (found == PCRE2_ERROR_NOMATCH) return std::nullopt;
  NEREUS_CHECK(
      kConfig, found >= 0,
      "tokenizer.json: the pre_tokenizer pattern {} gave up on a text of {} bytes (PCRE2's "
      "error {}): it backtracks too much",
      regex_.pattern_, text.size(), found);
  const PCRE2_SIZE* span = pcre2_get_ovector_pointer(data_->data);
  const size_t end = std::max(span[1], from);
  return Match{std::clamp(span[0], from, end), end};  // \K can put the begin anywhere
}

std::string regex_of_literal(std::string_view literal) {
  std::string out;
  for (const char c : literal) {
    if (static_cast<unsigned char>(c) < 0x80 && !std::isalnum(static_cast<unsigned char>(c)))
      out += '\\';
    out += c;
  }
  return out;
}

}  // namespace nereus::data
