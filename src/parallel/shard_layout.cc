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

ShardLayout::Slice ShardLayout::slice(const ParameterPart& part, int shard) const {
  const RowRange mine = rows(shard);
  // A part along another dim has all rows of the tensor.
  const int64_t first = part.dim == 0 ? part.begin : 0;
  const int64_t begin = std::max(mine.begin, first);
  const int64_t end = std::max(begin, std::min(mine.end, first + part.extent()[0]));
  if (begin == end) return {};
  return {.parameter = {begin - first, end - first}, .row = begin - mine.begin};
}

}  // namespace nereus
