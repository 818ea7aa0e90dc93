// Regular expressions of tokenizer files, which are written for Oniguruma, run by PCRE2 (JIT).
//
// The two agree on what such files use, once \s, \w and \h are spelt out and (?m), ^ and $ are
// taken as Oniguruma takes them, scripts in \p{...} are those of the code point alone, and classes
// in classes and intersections ([a-z&&[^x]]) become lookaheads. PCRE2's own tables serve \p{...}:
// code points younger than the library are unassigned to it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace nereus::data {

class Regex {
 public:
  // Throws Error{kConfig} for a pattern that does not compile or would mean something else; `file`
  // is whose it is, for messages.
  explicit Regex(const std::string& pattern, const std::string& file = "tokenizer.json");
  ~Regex();
  Regex(Regex&&) noexcept;

  struct Match {
    size_t begin, end;
  };

  // Work space of one thread's matching.
  class Search {
   public:
    explicit Search(const Regex&);  // which must outlive it
    ~Search();
    // The leftmost match in `text` (well-formed UTF-8) from `from` on; what lies before is seen by
    // lookbehind. Throws Error{kConfig} when the pattern needs too many steps.
    std::optional<Match> next(std::string_view text, size_t from = 0);

   private:
    struct Data;
    const Regex& regex_;
    std::unique_ptr<Data> data_;
  };

 private:
  struct Code;
  std::string name_;  // of the file and the pattern, for messages
  std::unique_ptr<Code> code_;
};

// A string as a pattern that matches just it.
std::string regex_of_literal(std::string_view literal);

}  // namespace nereus::data
