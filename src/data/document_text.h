// The text of a document from its line of a shard, read as Python's json reads it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace nereus::data {

struct DocumentText {
  enum class Skipped : uint8_t { no, not_json, no_text };
  std::optional<std::string> text;
  Skipped skipped = Skipped::no;
  std::string why;       // a skipped line: what it has instead
  int64_t replaced = 0;  // ill-formed parts of UTF-8 and lone surrogates, each now U+FFFD
};

// `line` is to be an object with a string "text". NaN, Infinity and numbers too large for a double
// may stand elsewhere in it.
DocumentText read_document(const std::string& line);

}  // namespace nereus::data
