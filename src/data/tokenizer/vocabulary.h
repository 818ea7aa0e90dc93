// Tokens and merges of a byte-level BPE model, in tables made for speed. Tokens are kept as the
// bytes they stand for.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nereus::data {

// Bytes written as printable code points, GPT-2's way: the alphabet of byte-level vocabularies.
class ByteAlphabet {
 public:
  ByteAlphabet();
  // The bytes of a token's text, or the text itself when a code point is not in the alphabet.
  std::string bytes_of(std::string_view text) const;

 private:
  std::vector<int16_t> byte_of_;  // by code point; -1: not in the alphabet
};

class Vocabulary {
 public:
  struct Merge {
    uint32_t rank, id;
  };

  void reserve(size_t tokens, size_t merges);
  // False when the token or the id is there already.
  bool add_token(std::string_view bytes, int32_t id);
  // False when a part or the result is no token. Ranks follow the order of the calls.
  bool add_merge(std::string_view left, std::string_view right);

  int32_t find(std::string_view bytes) const;  // -1: no token
  // Rank and result of joining two tokens; nullptr: they do not join.
  const Merge* merge(int32_t left, int32_t right) const {
    const uint64_t key = key_of(left, right);
    for (size_t slot = hash(key) & merge_mask_;; slot = (slot + 1) & merge_mask_) {
      if (merge_keys_[slot] == key) return &merges_[slot];
      if (merge_keys_[slot] == kEmpty) return nullptr;
    }
  }
  int32_t byte_token(unsigned char byte) const { return byte_tokens_[byte]; }
  void finish();  // after the last token: looks up the 256 bytes

  int32_t size() const { return static_cast<int32_t>(tokens_.size()); }  // largest id + 1
  bool has(int32_t id) const {
    return id >= 0 && id < size() && tokens_[static_cast<size_t>(id)].used;
  }
  std::string_view token(int32_t id) const {
    const Token& t = tokens_[static_cast<size_t>(id)];
    return std::string_view(text_).substr(t.begin, t.length);
  }

  static uint64_t hash_bytes(std::string_view bytes);

 private:
  struct Token {
    uint32_t begin = 0, length = 0;
    bool used = false;
  };
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  static uint64_t key_of(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
  static uint64_t hash(uint64_t key) {
    key *= 0x9E3779B97F4A7C15u;
    return key ^ (key >> 29);
  }

  std::string text_;
  std::vector<Token> tokens_;         // by id
  std::vector<int32_t> token_slots_;  // open addressing by hash of the bytes; -1: empty
  size_t token_mask_ = 0;
  std::vector<uint64_t> merge_keys_{kEmpty};
  std::vector<Merge> merges_{{0, 0}};
  size_t merge_mask_ = 0;
  uint32_t next_rank_ = 0;
  std::vector<int32_t> byte_tokens_ = std::vector<int32_t>(256, -1);
};

}  // namespace nereus::data
