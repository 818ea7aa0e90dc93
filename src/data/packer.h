// Packs documents into rows of a fixed length, without padding.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

namespace nereus::data {

// A token of the run: of which document, and which of its tokens.
struct TokenPosition {
  int64_t document = 0, token = 0;
  bool operator==(const TokenPosition&) const = default;
  bool operator<(const TokenPosition& b) const {
    return document != b.document ? document < b.document : token < b.token;
  }
};

// Documents one after the other, cut into rows of seq_len + 1 tokens: inputs are the first seq_len
// of them, labels the last. The token at the edge is a label only, never an input, as in
// TorchTitan.
class Packer {
 public:
  // Without its first `skip` tokens.
  void append(int64_t document, std::vector<int32_t> ids, int64_t skip = 0);

  // Moves the next row into inputs and labels (seq_len each, or both null to drop it). False, with
  // nothing taken, while too few tokens wait.
  bool take(int64_t seq_len, int32_t* inputs, int32_t* labels);

  int64_t waiting() const { return waiting_; }    // tokens
  std::optional<TokenPosition> position() const;  // of the first one waiting

 private:
  struct Piece {
    int64_t document;
    std::vector<int32_t> ids;
  };
  std::deque<Piece> pieces_;
  size_t at_ = 0;  // in the first piece
  int64_t waiting_ = 0;
};

}  // namespace nereus::data
