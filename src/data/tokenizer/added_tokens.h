// Tokens that are cut out of the text before the rest is split and merged.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/regex.h"

namespace nereus::data {

struct AddedToken {
  int32_t id = -1;
  std::string content;
  bool special = false;      // left out by decode's skip_special
  bool normalized = true;    // looked for in a second pass, in what the first has left
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
  bool single_word = false;  // only where no word character touches it
};

// Finds added tokens in text: the leftmost, of several there the longest.
class AddedTokenFinder {
 public:
  // Which must outlive this and differ in content.
  explicit AddedTokenFinder(const std::vector<const AddedToken*>& tokens);

  // A part of the text: of a token, or nullptr and text between tokens, which is not empty.
  struct Part {
    const AddedToken* token;
    std::string_view text;
  };
  // Appends the parts of `text`, which is well-formed UTF-8.
  void cut(std::string_view text, std::vector<Part>& parts) const;

 private:
  // The first token at or after `at`, which becomes its place; nullptr: none.
  const AddedToken* find(std::string_view text, size_t& at) const;
  const AddedToken* longest(std::string_view text) const;  // at the start of `text`

  bool touches_word(std::string_view before, std::string_view after) const;

  std::vector<const AddedToken*> tokens_;  // sorted by content
  struct Range {
    uint32_t begin = 0, end = 0;
  };
  std::array<Range, 256> by_first_byte_;
  int only_first_byte_ = -1;   // when all tokens begin alike
  std::optional<Regex> word_;  // when a token is single_word
};

}  // namespace nereus::data
