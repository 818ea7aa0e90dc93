// Text that a model goes on with, token by token. Each token takes a forward pass over the whole
// text, through the engine that trains: there is no cache of keys and values, and no second
// implementation of the model.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "device/device.h"
#include "train/sampler.h"

namespace nereus {

struct GenerateOptions {
  std::string checkpoint;  // as SavedModel takes it
  // One of the two. A text gets the tokenizer's BOS in front where tokenizer_config.json says so.
  std::optional<std::string> prompt;
  std::optional<std::vector<int64_t>> prompt_ids;
  std::optional<std::string> tokenizer;  // a folder; else the checkpoint's
  bool text = true;                      // false: no text is made of the new tokens
  int64_t max_tokens = 128;
  Sampling sampling;
  DType compute = DType::f32;
};

// The new tokens' ids, up to max_tokens or to the token that ends a text (config.json's
// eos_token_id, else the tokenizer's), which is the last then. With `text` show() gets what each
// one adds to it: whole characters, none for special tokens; together they are what decoding all of
// them gives. Throws Error{kConfig} for what the user can correct.
std::vector<int32_t> generate(Stream&, const GenerateOptions&,
                              const std::function<void(std::string_view)>& show);

}  // namespace nereus
