// A Hugging Face tokenizer.json of byte-level BPE (DeepSeek-V3's): text to ids and back.
//
// Encoding: added tokens are cut out of the text, the rest is split into pieces by the file's
// pre_tokenizer, and each piece's bytes are merged pair by pair, the lowest-ranked pair first, the
// leftmost of equals. The file's post_processor is not applied: BOS and EOS are the caller's.
// Decoding: the bytes of all tokens, ill-formed UTF-8 becoming U+FFFD.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nereus::data {

class Tokenizer {
 public:
  // `path`: a folder with tokenizer.json (and tokenizer_config.json, for the BOS and EOS tokens),
  // or the file itself. Throws Error{kConfig} that names the file, what is wrong or unsupported in
  // it, and what the folder has.
  static std::shared_ptr<const Tokenizer> load(const std::string& path);
  // From the files' contents; the names are for messages. `config_json` may be empty.
  static std::shared_ptr<const Tokenizer> parse(
      std::string_view tokenizer_json, std::string_view config_json, const std::string& name,
      const std::string& config_name = "tokenizer_config.json");
  ~Tokenizer();

  // Encodes for one thread: it remembers the pieces it has seen. Several may share a tokenizer.
  class Encoder {
   public:
    explicit Encoder(const Tokenizer&);  // which must outlive it
    ~Encoder();
    Encoder(Encoder&&) noexcept;
    // Appends the ids of `text`, special tokens in it recognised, without BOS and EOS. Ill-formed
    // UTF-8 is read as U+FFFD.
    void encode(std::string_view text, std::vector<int32_t>& ids);

   private:
    struct State;
    std::unique_ptr<State> state_;
  };

  // Throws Error{kConfig} for an id that is no token.
  std::string decode(std::span<const int32_t> ids, bool skip_special) const;
  // Appends the bytes that one id stands for, which may be a part of a character.
  void append_bytes(int32_t id, bool skip_special, std::string& bytes) const;

  int64_t vocab_size() const;             // one more than the largest id
  bool has(int64_t id) const;             // is it a token?
  std::optional<int32_t> bos_id() const;  // as tokenizer_config.json names it
  std::optional<int32_t> eos_id() const;  // likewise
  bool adds_bos() const;                  // its add_bos_token
  bool adds_eos() const;                  // its add_eos_token

 private:
  friend class Encoder;
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl>);
  std::unique_ptr<Impl> impl_;
};

}  // namespace nereus::data
