// Unicode's normal forms, as the normalizers of tokenizer files have them (UAX 15).
//
// The tables are those of Hugging Face tokenizers 0.23: points younger than these stay as they are.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace nereus::data {

enum class NormalForm : uint8_t { nfc, nfd, nfkc, nfkd };

class Normalizer {
 public:
  explicit Normalizer(NormalForm);
  ~Normalizer();
  Normalizer(Normalizer&&) noexcept;

  // The normal form of `text` (well-formed UTF-8): `text` itself when it is that already, as most
  // is, else `out`, which is overwritten. Thread-safe.
  std::string_view run(std::string_view text, std::string& out) const;

 private:
  struct Tables;
  std::unique_ptr<const Tables> tables_;
};

}  // namespace nereus::data
