// Which rows are exchanged where a rank's experts would receive more than their capacity: of
// each rank's n rows for each expert of a rank that would receive `wanted`, the first
// n * capacity / wanted (rounded down). Every rank of the group computes the same from all counts.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nereus {

// Offsets [ranks, experts + 1] of each rank's rows, sorted by expert.
struct ClippedRows {
  std::vector<int32_t> offsets;  // [ranks, experts + 1], of the rows that are kept, closed up
  int64_t wanted = 0;            // rows that the busiest rank would receive

  ClippedRows(std::span<const int32_t> all, int64_t ranks, int64_t experts, int64_t capacity);

  // By row of `rank` before: its row when those that are kept come first, in their order.
  std::vector<int32_t> places(std::span<const int32_t> all, int64_t rank, int64_t experts) const;
};

}  // namespace nereus
