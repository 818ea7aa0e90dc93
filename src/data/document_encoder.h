// A tokenizer as text data sets use it: a document is BOS, its ids, EOS (what the tokenizer has of
// them), as TorchTitan encodes one.
#pragma once

#include <memory>

#include "data/row_source.h"
#include "data/tokenizer/tokenizer.h"

namespace nereus::data {

// For TextOptions::make_encoder; a worker's encoder remembers what it has seen.
inline std::function<TextOptions::Encode()> document_encoder(
    std::shared_ptr<const Tokenizer> tokenizer) {
  return [tokenizer = std::move(tokenizer)]() -> TextOptions::Encode {
    auto encoder = std::make_shared<Tokenizer::Encoder>(*tokenizer);
    return [tokenizer, encoder](std::string_view text, std::vector<int32_t>& ids) {
      if (tokenizer->bos_id()) ids.push_back(*tokenizer->bos_id());
      encoder->encode(text, ids);
      if (tokenizer->eos_id()) ids.push_back(*tokenizer->eos_id());
    };
  };
}

}  // namespace nereus::data
