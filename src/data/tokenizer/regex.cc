#include "data/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <new>
#include <vector>

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

pcre2_code* compile(const std::string& pattern, int& error) {
  PCRE2_SIZE offset = 0;
  return pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                       PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                       &offset, nullptr);
}

bool compiles(const std::string& pattern) {
  int error = 0;
  pcre2_code* code = compile(pattern, error);
  pcre2_code_free(code);
  return code != nullptr;
}

// The file and the pattern, which may be long, for messages.
std::string name_of(const std::string& pattern, const std::string& file) {
  constexpr size_t kMost = 120;
  size_t length = std::min(pattern.size(), kMost);
  while (length < pattern.size() && (static_cast<unsigned char>(pattern[length]) & 0xC0u) == 0x80u)
    --length;
  return fmt::format("{}: the pre_tokenizer pattern {}{}", file, pattern.substr(0, length),
                     length < pattern.size() ? "..." : "");
}

class Translator {
 public:
  Translator(const std::string& pattern, const std::string& name)
      : pattern_(pattern), name_(name) {}

  std::string run() {
    std::string out;
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (c == '\\') {
        out += escape();
      } else if (c == '[') {
        out += character_class();
      } else if (c == '(' && pattern_.compare(at_, 2, "(?") == 0) {
        group_options(out);
      } else {
        out += take(1);
      }
    }
    return out;
  }

 private:
  std::string take(size_t count) {
    const std::string out = pattern_.substr(at_, count);
    at_ += count;
    return out;
  }
  bool at(std::string_view text) const { return pattern_.compare(at_, text.size(), text) == 0; }
  [[noreturn]] void refuse(const char* what) const {
    NEREUS_FAIL(kConfig, "{} has {} at offset {}, which is not supported", name_, what, at_);
  }

  // The members of the class that an escape at `at_` stands for; none: it is no class of ours.
  struct Members {
    std::string_view members;
    bool complement;
  };
  std::optional<Members> class_of_escape() const {
    switch (at_ + 1 < pattern_.size() ? pattern_[at_ + 1] : '\0') {
      case 's':
        return Members{kSpace, false};
      case 'S':
        return Members{kSpace, true};
      case 'w':
        return Members{kWord, false};
      case 'W':
        return Members{kWord, true};
      case 'h':  // hexadecimal digits to Oniguruma, white space to PCRE2
        return Members{"0-9A-Fa-f", false};
      case 'H':
        return Members{"0-9A-Fa-f", true};
      default:
        return std::nullopt;
    }
  }

  // Outside of brackets.
  std::string escape() {
    if (const std::optional<Members> c = class_of_escape()) {
      at_ += 2;
      return fmt::format("[{}{}]", c->complement ? "^" : "", c->members);
    }
    return property_or_escape();
  }

  // A script's name is its code points' own to Oniguruma; newer PCRE2 takes in those that it is
  // extended to.
  std::string property_or_escape() {
    std::string out = take(2);
    if ((out != "\\p" && out != "\\P") || at_ >= pattern_.size() || pattern_[at_] != '{')
      return out;
    const size_t end = pattern_.find('}', at_);
    if (end == std::string::npos) return out;
    std::string name = take(end + 1 - at_).substr(1);
    name.pop_back();
    const bool complement = name.starts_with('^');
    if (complement) name.erase(0, 1);
    const bool maybe_script = name.size() > 2 && name.find_first_of(":=") == std::string::npos;
    if (maybe_script && compiles("\\p{sc:" + name + "}")) name = "sc:" + name;
    return fmt::format("{}{{{}{}}}", out, complement ? "^" : "", name);
  }

  // One side of an intersection: members as PCRE2 has them, and classes beside them.
  struct Side {
    std::string members;
    std::vector<std::string> classes;
    bool plain() const { return classes.empty(); }
    // As something that matches one code point.
    std::string pattern() const {
      if (plain()) return fmt::format("[{}]", members);
      std::string out = members.empty() ? "" : fmt::format("[{}]|", members);
      return fmt::format("(?:{}{})", out, fmt::join(classes, "|"));
    }
  };

  // Brackets at `at_`.
  std::string character_class() {
    take(1);
    const bool complement = at("^");
    if (complement) take(1);
    std::vector<Side> sides(1);
    if (at("]")) sides.back().members += take(1);  // a member when it is first
    while (at_ < pattern_.size() && !at("]")) {
      Side& side = sides.back();
      if (at("&&")) {
        if (side.members.empty() && side.plain()) refuse("an intersection of nothing");
        take(2);
        sides.emplace_back();
      } else if (at("[:")) {
        const size_t end = pattern_.find(":]", at_);
        if (end == std::string::npos) refuse("[: without :]");
        side.members += take(end + 2 - at_);
      } else if (at("[")) {
        side.classes.push_back(character_class());
      } else if (const auto c = at("\\") ? class_of_escape() : std::nullopt) {
        at_ += 2;
        if (!c->complement) {
          side.members += c->members;
        } else if (c->members == kSpace) {
          side.members += kNotSpace;
        } else {
          side.classes.push_back(fmt::format("[^{}]", c->members));
        }
      } else {
        side.members += at("\\") ? property_or_escape() : take(1);
      }
    }
    if (at_ >= pattern_.size()) refuse("a [ without a ]");
    take(1);
    const Side& last = sides.back();
    if (sides.size() == 1 && last.plain())
      return fmt::format("[{}{}]", complement ? "^" : "", last.members);
    if (last.members.empty() && last.plain()) refuse("an intersection of nothing");
    std::string out;
    for (size_t i = 0; i + 1 < sides.size(); ++i) out += fmt::format("(?={})", sides[i].pattern());
    out += last.pattern();
    return complement ? fmt::format(R"((?:(?!{})[\x00-\x{{10FFFF}}]))", out)
                      : fmt::format("(?:{})", out);
  }

  // (?m) is PCRE2's (?s).
  void group_options(std::string& out) {
    out += take(2);
    while (at_ < pattern_.size() &&
           (std::isalpha(static_cast<unsigned char>(pattern_[at_])) || pattern_[at_] == '-')) {
      const char c = pattern_[at_];
      if (c != 'i' && c != 'm' && c != 'x' && c != '-') return;  // not options
      out += c == 'm' ? 's' : c;
      ++at_;
    }
  }

  const std::string& pattern_;
  const std::string& name_;
  size_t at_ = 0;
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

Regex::Regex(const std::string& pattern, const std::string& file) : name_(name_of(pattern, file)) {
  int error = 0;
  pcre2_code* code = compile(Translator(pattern, name_).run(), error);
  if (code == nullptr) {
    std::array<PCRE2_UCHAR, 256> text{};
    pcre2_get_error_message(error, text.data(), text.size());
    NEREUS_FAIL(kConfig, "{} does not compile: {}", name_,
                reinterpret_cast<const char*>(text.data()));
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
  NEREUS_CHECK(kConfig, found >= 0,
               "{} gave up on a text of {} bytes (PCRE2's error {}): it backtracks too much",
               regex_.name_, text.size(), found);
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
