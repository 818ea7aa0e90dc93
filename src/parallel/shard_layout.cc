#include "parallel/shard_layout.h"

#include <algorithm>

namespace nereus {

ShardLayout::ShardLayout(int64_t rows, int shards) : rows_(rows), each_(rows), shards_(shards) {
  if (shards == 1) return;
  each_ = (rows + shards - 1) / shards;
  if (rows >= kRows * shards) each_ = (each_ + kRows - 1) / kRows * kRows;
}

RowRange ShardLayout::rows(int shard) const {
  return {std::min(rows_, shard * each_), std::min(rows_, (shard + 1) * each_)};
}

std::vector<ShardLayout::Slice> ShardLayout::slices(const ParameterPart& part, const Shape& tensor,
                                                    int shard) const {
  const RowRange mine = rows(shard);
  const bool experts = tensor.rank() > 2;
  // Of each panel of `each` rows the part has [begin, begin + count).
  const int64_t each = experts ? tensor[1] : rows_, panels = experts ? tensor[0] : 1;
  const int64_t begin = part.dim == (experts ? 1 : 0) ? part.begin : 0;
  const int64_t count = part.extent()[experts ? 1 : 0];
  std::vector<Slice> out;
  if (mine.count() == 0) return out;
  for (int64_t p = mine.begin / each; p < panels && p * each < mine.end; ++p) {
    const int64_t first = p * each + begin;
    const int64_t lo = std::max(mine.begin, first), hi = std::min(mine.end, first + count);
    if (lo >= hi) continue;
    const bool whole = hi - lo == count;
    if (whole && !out.empty() && out.back().rows == count &&
        out.back().panel + out.back().panels == p) {
      ++out.back().panels;
    } else {
      out.push_back({.panel = p, .first = lo - first, .rows = hi - lo, .row = lo - mine.begin});
    }
  }
  return out;
}

}  // namespace nereus
