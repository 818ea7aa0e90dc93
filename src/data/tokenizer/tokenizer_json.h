// What a tokenizer.json says, checked: only components that are supported get through.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/added_tokens.h"
#include "data/tokenizer/normalizer.h"
#include "data/tokenizer/splitter.h"
#include "data/tokenizer/vocabulary.h"

namespace nereus::data {

struct TokenizerFile {
  Vocabulary vocabulary;
  std::vector<AddedToken> added;         // differ in content and id
  std::vector<NormalForm> normal_forms;  // one after the other
  std::vector<SplitRule> rules;
  // Of the ByteLevel after the rules: a space goes before each piece that has none, and the piece
  // is split by `after_prefix` then.
  bool add_prefix_space = false;
  std::vector<SplitRule> after_prefix;
  std::vector<SplitRule> after_bytes;  // behind ByteLevel: of bytes in the byte alphabet
  bool ignore_merges = false;          // a piece that is a token is not merged
};

// Throws Error{kConfig}; `name` is the file's, for messages.
TokenizerFile read_tokenizer_json(std::string_view text, const std::string& name);

// What tokenizer_config.json says of BOS and EOS.
struct TokenizerConfig {
  std::optional<std::string> bos, eos;  // the tokens' contents
  bool add_bos = false, add_eos = false;
};
TokenizerConfig read_tokenizer_config(std::string_view text, const std::string& name);

}  // namespace nereus::data
