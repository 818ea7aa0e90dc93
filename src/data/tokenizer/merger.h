// Byte-pair merging of one piece, with a memory of the pieces seen.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/vocabulary.h"

namespace nereus::data {

// For one thread. As long as neighbours can be merged, the pair with the lowest rank is merged, the
// leftmost of equal ones.
class Merger {
 public:
  // `whole_first`: a piece that is a token becomes that token, whatever the merges would give.
  Merger(const Vocabulary& vocabulary, bool whole_first);  // which must outlive it

  // Appends the ids of `piece`, which is not empty. Bytes that are no tokens are left out.
  void encode(std::string_view piece, std::vector<int32_t>& ids);

 private:
  struct Slot {
    uint64_t hash = 0;
    uint32_t text = 0, length = 0;  // length 0: free
    uint32_t ids = 0, count = 0;
  };
  struct Symbol {
    int32_t id, previous, next;
  };
  struct Pair {
    uint32_t rank;
    int32_t left, left_id, right_id;
    bool operator>(const Pair& o) const { return rank != o.rank ? rank > o.rank : left > o.left; }
  };
  void merge(std::string_view piece, std::vector<int32_t>& ids);
  void merge_short(std::string_view piece, std::vector<int32_t>& ids);
  void merge_long(std::string_view piece, std::vector<int32_t>& ids);
  void push_pair(int32_t left);
  void forget();

  const Vocabulary& vocabulary_;
  const bool whole_first_;
  // Open addressing by hash; emptied when half full.
  std::vector<Slot> slots_;
  size_t used_ = 0;
  std::string texts_;
  std::vector<int32_t> ids_;
  // Work space.
  std::vector<uint32_t> ranks_;
  std::vector<Symbol> symbols_;
  std::vector<Pair> heap_;
};

}  // namespace nereus::data
