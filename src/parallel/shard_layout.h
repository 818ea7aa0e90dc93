// How the rows of a stored tensor (StoredTensor::rows) are divided among the ranks of a shard
// group: equal shares in the order of ranks, multiples of 128 rows where every rank can have as
// many, the last ones filled up with padding. A share may begin and end inside of an expert. What a
// rank has of a logical parameter follows from it, for initialisation, checkpoints and Hugging
// Face's files alike.
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

  // A box of a part and where it lies in the shard: `panels` experts from `panel` on (elsewhere
  // one, 0), of each the part's rows [first, first + rows). The first is row `row` of the shard.
  struct Slice {
    int64_t panel = 0, panels = 1, first = 0, rows = 0, row = 0;
    bool operator==(const Slice&) const = default;
  };
  // A part's share of the tensor of that shape: none, one, or with experts up to three boxes.
  std::vector<Slice> slices(const ParameterPart&, const Shape& tensor, int shard) const;

 private:
  int64_t rows_, each_;
  int shards_;
};

}  // namespace nereus
