#include "data/tokenizer/vocabulary.h"

#include <bit>
#include <cstring>

#include "data/utf8.h"

namespace nereus::data {

ByteAlphabet::ByteAlphabet() : byte_of_(512, -1) {
  int extra = 256;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    byte_of_[static_cast<size_t>(printable ? b : extra++)] = static_cast<int16_t>(b);
  }
}

std::string ByteAlphabet::bytes_of(std::string_view text) const {
  std::string out;
  out.reserve(text.size());
  for (std::string_view rest = text; !rest.empty();) {
    const CodePoint c = decode_utf8(rest);
    const int byte = c.value < byte_of_.size() ? byte_of_[c.value] : -1;
    if (byte < 0) return std::string(text);
    out += static_cast<char>(byte);
    rest.remove_prefix(static_cast<size_t>(c.length));
  }
  return out;
}

uint64_t Vocabulary::hash_bytes(std::string_view bytes) {
  uint64_t h = 0x9E3779B97F4A7C15u ^ bytes.size();
  while (bytes.size() >= 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data(), 8);
    h = (h ^ word) * 0xff51afd7ed558ccdu;
    h ^= h >> 32;
    bytes.remove_prefix(8);
  }
  uint64_t word = 0;
  std::memcpy(&word, bytes.data(), bytes.size());
  h = (h ^ word) * 0xff51afd7ed558ccdu;
  return h ^ (h >> 32);
}

void Vocabulary::reserve(size_t tokens, size_t merges) {
  token_slots_.assign(std::bit_ceil(2 * tokens + 2), -1);
  token_mask_ = token_slots_.size() - 1;
  tokens_.reserve(tokens);
  merge_keys_.assign(std::bit_ceil(2 * merges + 2), kEmpty);
  merges_.assign(merge_keys_.size(), Merge{0, 0});
  merge_mask_ = merge_keys_.size() - 1;
}

bool Vocabulary::add_token(std::string_view bytes, int32_t id) {
  if (id < 0 || has(id)) return false;
  size_t slot = hash_bytes(bytes) & token_mask_;
  for (; token_slots_[slot] >= 0; slot = (slot + 1) & token_mask_)
    if (token(token_slots_[slot]) == bytes) return false;
  token_slots_[slot] = id;
  if (id >= size()) tokens_.resize(static_cast<size_t>(id) + 1);
  tokens_[static_cast<size_t>(id)] = {static_cast<uint32_t>(text_.size()),
                                      static_cast<uint32_t>(bytes.size()), true};
  text_ += bytes;
  return true;
}

int32_t Vocabulary::find(std::string_view bytes) const {
  if (token_slots_.empty()) return -1;
  for (size_t slot = hash_bytes(bytes) & token_mask_; token_slots_[slot] >= 0;
       slot = (slot + 1) & token_mask_)
    if (token(token_slots_[slot]) == bytes) return token_slots_[slot];
  return -1;
}

bool Vocabulary::add_merge(std::string_view left, std::string_view right) {
  const int32_t a = find(left), b = find(right);
  const int32_t joined = find(std::string(left) + std::string(right));
  if (a < 0 || b < 0 || joined < 0) return false;
  const uint64_t key = key_of(a, b);
  size_t slot = hash(key) & merge_mask_;
  while (merge_keys_[slot] != kEmpty && merge_keys_[slot] != key) slot = (slot + 1) & merge_mask_;
  if (merge_keys_[slot] != key) {  // of a repeated pair the first rank counts
    merge_keys_[slot] = key;
    merges_[slot] = {next_rank_, static_cast<uint32_t>(joined)};
  }
  ++next_rank_;
  return true;
}

void Vocabulary::finish() {
  for (int b = 0; b < 256; ++b) {
    const char c = static_cast<char>(b);
    byte_tokens_[static_cast<size_t>(b)] = find(std::string_view(&c, 1));
  }
}

}  // namespace nereus::data
