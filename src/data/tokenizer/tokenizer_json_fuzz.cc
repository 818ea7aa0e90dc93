#include "base/error.h"
#include "data/tokenizer/tokenizer.h"
#include "test/fuzz.h"

namespace nereus::data {
namespace {

// Any bytes are either a tokenizer that encodes and decodes or an Error.
NEREUS_FUZZ(tokenizer_json, data) {
  try {
    const std::string_view text(reinterpret_cast<const char*>(data.data()), data.size());
    const auto t = Tokenizer::parse(text, "", "fuzz");
    std::vector<int32_t> ids;
    Tokenizer::Encoder(*t).encode("The quick brown fox, 123!", ids);
    t->decode(ids, false);
  } catch (const Error&) {
  }
}

}  // namespace
}  // namespace nereus::data
