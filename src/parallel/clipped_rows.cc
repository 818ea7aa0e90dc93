#include "parallel/clipped_rows.h"

#include <algorithm>

namespace nereus {

ClippedRows::ClippedRows(std::span<const int32_t> all, int64_t ranks, int64_t experts,
                         int64_t capacity)
    : offsets(static_cast<size_t>(ranks * (experts + 1))) {
  const int64_t E = experts / ranks;  // of one rank
  const auto at = [&](int64_t rank, int64_t expert) {
    return static_cast<size_t>(rank * (experts + 1) + expert);
  };
  for (int64_t to = 0; to < ranks; ++to) {
    int64_t rows = 0;
    for (int64_t from = 0; from < ranks; ++from)
      rows += all[at(from, (to + 1) * E)] - all[at(from, to * E)];
    wanted = std::max(wanted, rows);
    for (int64_t from = 0; from < ranks; ++from)
      for (int64_t e = to * E; e < (to + 1) * E; ++e) {
        const int64_t n = all[at(from, e + 1)] - all[at(from, e)];
        const int64_t kept = rows > capacity ? n * capacity / rows : n;
        offsets[at(from, e + 1)] = offsets[at(from, e)] + static_cast<int32_t>(kept);
      }
  }
}

std::vector<int32_t> ClippedRows::places(std::span<const int32_t> all, int64_t rank,
                                         int64_t experts) const {
  const auto before = all.subspan(static_cast<size_t>(rank * (experts + 1)));
  const auto after = std::span(offsets).subspan(static_cast<size_t>(rank * (experts + 1)));
  std::vector<int32_t> place(static_cast<size_t>(before[static_cast<size_t>(experts)]));
  int32_t last = after[static_cast<size_t>(experts)];  // where those left out begin
  for (size_t e = 0; e < static_cast<size_t>(experts); ++e) {
    const int32_t kept = after[e + 1] - after[e];
    for (int32_t row = before[e]; row < before[e + 1]; ++row) {
      const int32_t i = row - before[e];
      place[static_cast<size_t>(row)] = i < kept ? after[e] + i : last++;
    }
  }
  return place;
}

}  // namespace nereus
