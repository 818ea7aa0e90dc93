// The two large tables of a tokenizer.json, model.vocab and model.merges, read straight into a
// Vocabulary, and the rest of the file without them.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/vocabulary.h"

namespace nereus::data {

// The largest id that is accepted: a stray number must not allocate gigabytes.
constexpr int64_t kLargestTokenId = (int64_t{1} << 22) - 1;

class TokenizerTables {
 public:
  // Finds the tables. `file` must outlive this; `name` is for messages. Throws Error{kConfig}.
  TokenizerTables(std::string_view file, const std::string& name);

  // The file with `null` in the place of each table. Brackets in it nest at most 100 deep.
  const std::string& rest() const { return rest_; }
  // The line of the file that a byte of `rest` is on.
  int64_t line_of(size_t rest_position) const;
  // Throws Error{kConfig}.
  Vocabulary read() const;

 private:
  struct Cut {
    size_t at, removed;  // bytes of `rest` before what follows the cut; bytes taken from the file
  };
  void read_vocab(Vocabulary&) const;
  void read_merges(Vocabulary&) const;

  std::string_view file_;
  std::string name_, rest_;
  std::optional<size_t> vocab_, merges_;  // where the tables begin
  std::vector<Cut> cuts_;
  ByteAlphabet alphabet_;
};

}  // namespace nereus::data
