#include "data/tokenizer/vocabulary.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "data/utf8.h"

namespace nereus::data {

ByteAlphabet::ByteAlphabet() {
  byte_of_.fill(-1);
  int extra = 256;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    const int point = printable ? b : extra++;
    byte_of_[static_cast<size_t>(point)] = static_cast<int16_t>(b);
    point_of_[static_cast<size_t>(b)] = static_cast<char16_t>(point);
  }
}

bool ByteAlphabet::append_bytes(std::string_view text, std::string& out) const {
  const size_t before = out.size();
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned c = static_cast<unsigned char>(text[i]);
    if (c >= 0x80) {  // the alphabet ends below U+0200: two bytes at most
      const bool two = (c & 0xE0) == 0xC0 && i + 1 < text.size();
      c = two ? (c & 0x1F) << 6 | (static_cast<unsigned char>(text[i + 1]) & 0x3F) : 0xFFFF;
      ++i;
    }
    const int byte = c < byte_of_.size() ? byte_of_[c] : -1;
    if (byte < 0) {
      out.resize(before);
      return false;
    }
    out += static_cast<char>(byte);
  }
  return true;
}

void ByteAlphabet::append_text(std::string_view bytes, std::string& out) const {
  for (const char b : bytes) append_utf8(point_of_[static_cast<unsigned char>(b)], out);
}

std::string ByteAlphabet::bytes_of(std::string_view text) const {
  std::string out;
  return append_bytes(text, out) ? out : std::string(text);
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
  if (!bytes.empty()) std::memcpy(&word, bytes.data(), bytes.size());
  h = (h ^ word) * 0xff51afd7ed558ccdu;
  return h ^ (h >> 32);
}

bool Vocabulary::add_token(std::string_view bytes, int32_t id, bool foreign) {
  if (id < 0 || has(id)) return false;
  if (id >= size()) tokens_.resize(static_cast<size_t>(id) + 1);
  tokens_[static_cast<size_t>(id)] = {static_cast<uint32_t>(text_.size()),
                                      static_cast<uint32_t>(bytes.size())};
  text_ += bytes;
  ++count_;
  if (foreign) foreign_.push_back(id);
  return true;
}

int32_t Vocabulary::index_tokens() {
  token_slots_.assign(std::bit_ceil(2 * static_cast<size_t>(count_) + 2), -1);
  token_mask_ = token_slots_.size() - 1;
  std::vector<bool> foreign(tokens_.size());
  for (const int32_t id : foreign_) foreign[static_cast<size_t>(id)] = true;
  for (int32_t id = 0; id < size(); ++id) {
    if (!has(id) || foreign[static_cast<size_t>(id)]) continue;
    const std::string_view bytes = token(id);
    size_t slot = hash_bytes(bytes) & token_mask_;
    for (; token_slots_[slot] >= 0; slot = (slot + 1) & token_mask_)
      if (token(token_slots_[slot]) == bytes) return id;
    token_slots_[slot] = id;
  }
  for (int b = 0; b < 256; ++b) {
    const char c = static_cast<char>(b);
    byte_tokens_[static_cast<size_t>(b)] = find(std::string_view(&c, 1));
  }
  return -1;
}

bool Vocabulary::has_all_bytes() const {
  return std::find(byte_tokens_.begin(), byte_tokens_.end(), -1) == byte_tokens_.end();
}

int32_t Vocabulary::find(std::string_view bytes) const {
  for (size_t slot = hash_bytes(bytes) & token_mask_; token_slots_[slot] >= 0;
       slot = (slot + 1) & token_mask_)
    if (token(token_slots_[slot]) == bytes) return token_slots_[slot];
  return -1;
}

int32_t Vocabulary::find_foreign(std::string_view text) const {
  for (const int32_t id : foreign_)
    if (token(id) == text) return id;
  return -1;
}

bool Vocabulary::add_merge(std::string_view left, std::string_view right) {
  joined_ = left;
  joined_ += right;
  const int32_t a = find(left), b = find(right), both = find(joined_);
  if (a < 0 || b < 0 || both < 0) return false;
  merges_.push_back({key_of(a, b), {next_rank_++, static_cast<uint32_t>(both)}});
  return true;
}

void Vocabulary::index_merges() {
  merge_slots_.assign(std::bit_ceil(2 * merges_.size() + 2), MergeSlot{});
  merge_mask_ = merge_slots_.size() - 1;
  for (const MergeSlot& m : merges_) {
    size_t slot = hash(m.key) & merge_mask_;
    while (merge_slots_[slot].key != kEmpty && merge_slots_[slot].key != m.key)
      slot = (slot + 1) & merge_mask_;
    merge_slots_[slot] = m;
  }
  merges_ = {};
}

}  // namespace nereus::data
