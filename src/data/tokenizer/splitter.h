// Cuts text into the pieces that byte-pair merging works on: the pre_tokenizer of tokenizer.json.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace nereus::data {

class Splitter {
 public:
  virtual ~Splitter() = default;
  // Appends the pieces of `text` (well-formed UTF-8), none empty, in order; together they are the
  // text, less what a `removed` split takes out. Thread-safe.
  virtual void split(std::string_view text, std::vector<std::string_view>& pieces) const = 0;
};

// One Split of a pre_tokenizer's Sequence.
struct SplitRule {
  // What becomes of a match: dropped, a piece of its own, joined to the piece before it or after
  // it, or to adjacent matches.
  enum class Behavior : uint8_t {
    removed,
    isolated,
    merged_with_previous,
    merged_with_next,
    contiguous
  };
  std::string pattern;
  bool literal = false;  // a string, not a regular expression
  bool invert = false;   // the matches are the gaps and the gaps the matches
  Behavior behavior = Behavior::isolated;
};

// Are these DeepSeek-V3's three rules? Then make_deepseek_splitter() is the same and much faster.
bool are_deepseek_rules(const std::vector<SplitRule>&);
std::unique_ptr<Splitter> make_deepseek_splitter();

// Any rules, through PCRE2. Throws Error{kConfig} for a pattern it cannot compile; `file` is whose
// they are, for messages.
std::unique_ptr<Splitter> make_regex_splitter(const std::vector<SplitRule>&,
                                              const std::string& file = "tokenizer.json");

}  // namespace nereus::data
