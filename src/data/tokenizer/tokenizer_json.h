// What a tokenizer.json says, checked: only components that are supported get through.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/splitter.h"
#include "data/tokenizer/vocabulary.h"

namespace nereus::data {

struct AddedToken {
  int32_t id = -1;
  std::string content;
  bool special = false, normalized = true;
};

struct TokenizerFile {
  Vocabulary vocabulary;
  std::vector<AddedToken> added;
  std::vector<SplitRule> rules;
  bool add_prefix_space = false;
};

// Throws Error{kConfig}; `name` is the file's, for messages.
TokenizerFile read_tokenizer_json(std::string_view text, const std::string& name);

// The contents of tokenizer_config.json's bos_token and eos_token, if it has them.
struct SpecialNames {
  std::optional<std::string> bos, eos;
};
SpecialNames read_tokenizer_config(std::string_view text, const std::string& name);

}  // namespace nereus::data
