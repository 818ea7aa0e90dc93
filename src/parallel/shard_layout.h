// How the rows (dim 0) of a stored tensor are divided among the ranks of a shard group: equal
// shares in the order of ranks, multiples of 128 rows where every rank can have as many, the last
// ones filled up with padding. What a rank has of a logical parameter follows from it, for
// initialisation, checkpoints and Hugging Face's files alike.
#pragma once

#include "parallel/parameter.h"

namespace nereus {

struct RowRange {
  int64_t begin = 0, end = 0;
  int64_t count() const { return end - begin; }
  bool operator==(const RowRange&) const = default;
};

class ShardLayout {
 public:
  static constexpr int64_t kRows = 128;

  ShardLayout(int64_t rows, int shards);

  int64_t rows_per_shard() const { return each_; }         // with padding
  int64_t padded_rows() const { return each_ * shards_; }  // of all shards
  RowRange rows(int shard) const;                          // of the tensor, without padding

  // A part's share: rows [parameter.begin, parameter.end) of the part's dim 0 are rows `row` and on
  // of the shard (along the tensor's dim 0). Empty: begin == end.
  struct Slice {
    RowRange parameter;
    int64_t row = 0;
  };
  Slice slice(const ParameterPart&, int shard) const;

 private:
  int64_t rows_, each_;
  int shards_;
};

}  // namespace nereus
