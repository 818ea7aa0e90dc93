#include "base/error.h"
#include "base/log.h"
#include "data/tokenizer/tokenizer.h"
#include "test/fuzz.h"

namespace nereus::data {
namespace {

// Any bytes are either a tokenizer that encodes and decodes or an Error.
NEREUS_FUZZ(tokenizer_json, data) {
  const log::Capture quiet;
  try {
    const std::string_view text(reinterpret_cast<const char*>(data.data()), data.size());
    const auto t = Tokenizer::parse(text, "", "fuzz");
    std::vector<int32_t> ids;
    Tokenizer::Encoder(*t).encode("The quick brown fox, 123!", ids);
    t->decode(ids, false);
  } catch (const Error& e) {
    if (e.fault() != Fault::kConfig) __builtin_trap();
  }
}

}  // namespace
}  // namespace nereus::data
