// Tokens and merges of a byte-level BPE model, in tables made for speed. Tokens are kept as the
// bytes they stand for.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nereus::data {

// Bytes written as printable code points, GPT-2's way: the alphabet of byte-level vocabularies.
class ByteAlphabet {
 public:
  ByteAlphabet();
  // Appends the bytes of a token's text to `out`. False, with `out` as it was, when a code point is
  // not in the alphabet.
  bool append_bytes(std::string_view text, std::string& out) const;
  // Appends the text of bytes.
  void append_text(std::string_view bytes, std::string& out) const;
  // The same as append_bytes; a text that is not in the alphabet stands for itself, as Hugging Face
  // decodes it.
  std::string bytes_of(std::string_view text) const;

 private:
  std::array<int16_t, 512> byte_of_;  // by code point; -1: not in the alphabet
  std::array<char16_t, 256> point_of_;
};

// Filled in this order: add_token, index_tokens, add_merge, index_merges.
class Vocabulary {
 public:
  struct Merge {
    uint32_t rank, id;
  };

  // False when the id is there already. Text that is not in the byte alphabet is `foreign`: it can
  // be decoded but never comes out of merging.
  bool add_token(std::string_view bytes, int32_t id, bool foreign);
  // -1, or the id of a token whose bytes another has too.
  int32_t index_tokens();
  // False when a part or the result is not a token. Ranks follow the order of the calls; a repeated
  // pair gets the last one's rank, as in Hugging Face's map.
  bool add_merge(std::string_view left, std::string_view right);
  void skip_merge() { ++next_rank_; }  // of foreign tokens
  void index_merges();

  int32_t find(std::string_view bytes) const;         // -1: no token
  int32_t find_foreign(std::string_view text) const;  // slow
  // Rank and result of joining two tokens; nullptr: they do not join.
  const Merge* merge(int32_t left, int32_t right) const {
    const uint64_t key = key_of(left, right);
    for (size_t slot = hash(key) & merge_mask_;; slot = (slot + 1) & merge_mask_) {
      if (merge_slots_[slot].key == key) return &merge_slots_[slot].merge;
      if (merge_slots_[slot].key == kEmpty) return nullptr;
    }
  }
  int32_t byte_token(unsigned char byte) const { return byte_tokens_[byte]; }  // -1: none
  bool has_all_bytes() const;

  int32_t size() const { return static_cast<int32_t>(tokens_.size()); }  // largest id + 1
  int64_t count() const { return count_; }                               // tokens
  bool has(int32_t id) const {
    return id >= 0 && id < size() && tokens_[static_cast<size_t>(id)].begin != kUnused;
  }
  std::string_view token(int32_t id) const {
    const Token& t = tokens_[static_cast<size_t>(id)];
    return std::string_view(text_).substr(t.begin, t.length);
  }

  static uint64_t hash_bytes(std::string_view bytes);

 private:
  static constexpr uint32_t kUnused = ~uint32_t{0};
  struct Token {
    uint32_t begin = kUnused, length = 0;
  };
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  struct MergeSlot {
    uint64_t key = kEmpty;
    Merge merge{0, 0};
  };
  static uint64_t key_of(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
  static uint64_t hash(uint64_t key) {
    key *= 0x9E3779B97F4A7C15u;
    return key ^ (key >> 29);
  }

  std::string text_;
  std::vector<Token> tokens_;  // by id
  std::vector<int32_t> foreign_;
  int64_t count_ = 0;
  std::vector<int32_t> token_slots_;  // open addressing by hash of the bytes; -1: empty
  size_t token_mask_ = 0;
  std::vector<MergeSlot> merges_;  // as added
  std::vector<MergeSlot> merge_slots_{MergeSlot{}};
  size_t merge_mask_ = 0;
  uint32_t next_rank_ = 0;
  std::string joined_;
  std::array<int32_t, 256> byte_tokens_;
};

}  // namespace nereus::data
