// What one rank keeps of the model's parameters, where it lies in the flat buffers of its states,
// and which of it that rank writes to a checkpoint. A pure function of the layout and the mesh: it
// answers for any rank.
//
// Some ranks keep the same rows: those that differ in dp_replicate, and of what tensor parallelism
// does not cut also those that differ in tp. Each stored tensor is written by one of them, so that
// they write about as many bytes each.
#pragma once

#include <vector>

#include "parallel/store_layout.h"

namespace nereus {

struct RankSlices {
  struct Kept {
    StoreLayout::Slice box;
    bool written = false;  // by this rank
  };
  // `count` elements from `flat` on in a flat buffer are those from `at` on in a slice, row-major.
  struct Piece {
    size_t slice = 0;
    int64_t flat = 0, at = 0, count = 0;
  };

  std::vector<Kept> slices;   // in the order of tensors and their parts
  std::vector<Piece> pieces;  // ascending in `flat`

  int64_t written_elements() const;
};

RankSlices rank_slices(const StoreLayout&, const Mesh&, int rank);

}  // namespace nereus
