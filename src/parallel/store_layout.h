// Where each element of each logical parameter lies in the flat buffers of a rank's parameter state
// (master, gradient, first and second moment, bf16 copy: all have the same layout). A pure function
// of the stored tensors and the sizes of the two groups that divide them; it has no memory and no
// communicator, and it answers for any rank of those groups, not only for one's own.
//
// A flat buffer holds this rank's rows of every stored tensor (ShardLayout, padding rows included),
// one after the other, each aligned. The order is not the model's:
//
//   [ cut by tp | cut by tp, f32 | same on tp, f32 | same on tp ]
//
// where "f32" are the tensors whose masters kernels read (ReadFormat::f32_master). So what this
// rank counts in a norm is one run (all of it on the first rank of a tp group, the first two parts
// on the others), and the tensors without a bf16 copy are one run.
//
// Ranks that differ in tp, ep or pp store other tensors (model_layout) and so have other layouts;
// ranks that differ in replication have the same one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "parallel/mesh.h"
#include "parallel/parameter.h"
#include "parallel/shard_layout.h"

namespace nereus {

// How many ranks divide a tensor's rows, and which of them a rank is. Routed experts have a group
// of their own.
struct ShardCounts {
  int dense = 1, experts = 1;
  int of(const StoredTensor& t) const { return t.experts ? experts : dense; }
};
struct ShardIndex {
  int dense = 0, experts = 0;
  int of(const StoredTensor& t) const { return t.experts ? experts : dense; }
};

// Of a mesh, and of a rank in it.
ShardCounts shard_counts(const Mesh&);
ShardIndex shard_index(const Mesh&, int rank);

// Elements [begin, end) of a flat buffer.
struct FlatRange {
  int64_t begin = 0, end = 0;
  int64_t count() const { return end - begin; }
  bool operator==(const FlatRange&) const = default;
};

class StoreLayout {
 public:
  // A box of a logical parameter that a rank holds. Element [i, j, k] of it (experts first) is
  //   origin + [i, j, k] of the parameter, whose shape is `whole`, and
  //   flat + i * panel_stride + j * extent[2] + k of a flat buffer;
  // with two dims flat + i * extent[1] + j, with one flat + i. So a box of several experts is not
  // contiguous where two parameters are rows of one stored tensor (w1 and w3 of gate_up).
  struct Slice {
    std::string name;
    ParameterKind kind = ParameterKind::dense;
    Shape whole, origin, extent;
    int64_t flat = 0;          // elements
    int64_t panel_stride = 0;  // elements from expert to expert; 0 with less than three dims
    TensorHandle tensor = -1;  // where it is stored
    bool operator==(const Slice&) const = default;
  };

  // `count` elements that follow each other in a flat buffer, from `flat` on, and in their
  // parameter, from `index` on (row-major in Slice::whole).
  struct Run {
    int64_t flat = 0, index = 0, count = 0;
    bool operator==(const Run&) const = default;
  };

  // `compute`: what the model computes in, f32 or bf16. Where elements lie does not depend on it.
  // A part that is not rows of its tensor is an Error{kContract}.
  explicit StoreLayout(std::vector<StoredTensor>, const ShardCounts& = {},
                       DType compute = DType::f32);

  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  size_t size() const { return tensors_.size(); }               // stored tensors
  const std::vector<int>& buckets() const { return buckets_; }  // in order of their first tensor

  // Of a flat buffer, padding included: the same number on all ranks of the groups.
  int64_t elements() const { return elements_; }
  // Of those, what a rank counts in a norm of all parameters: all ranks of a model together count
  // each element once.
  FlatRange counted(bool first_of_tp) const { return {0, first_of_tp ? elements_ : cut_elements_}; }
  // The tensors of ReadFormat::f32_master.
  FlatRange f32_masters() const { return f32_masters_; }

  // The boxes of that shard of all tensors, in the order of tensors and their parts. A parameter of
  // which it has no rows has none; routed experts have up to three.
  std::vector<Slice> slices(const ShardIndex&) const;
  std::vector<Slice> slices(size_t tensor, const ShardIndex&) const;
  // A slice as runs, ascending in both: as few as there are.
  static std::vector<Run> runs(const Slice&);

  // Of stored tensor i. A shard has `shard_shape`, rows of the last dim's width with padding, and
  // lies `offset` elements into a flat buffer; all shards together have `padded_shape`.
  bool divided(size_t i) const { return counts_.of(tensors_[i]) > 1; }
  const ShardLayout& rows(size_t i) const { return rows_[i]; }
  int64_t offset(size_t i) const { return offsets_[i]; }
  Shape shard_shape(size_t i) const { return with_rows(i, rows_[i].rows_per_shard()); }
  Shape padded_shape(size_t i) const { return with_rows(i, rows_[i].padded_rows()); }
  // What kernels read of it, and its type.
  ReadFormat read_format(size_t i) const {
    return compute_ == DType::f32 ? ReadFormat::f32_master : tensors_[i].read_format;
  }
  DType read_dtype(size_t i) const {
    return read_format(i) == ReadFormat::bf16_copy ? DType::bf16 : DType::f32;
  }

  // Elements up to the next tensor: tensors of any type of two bytes or more begin aligned.
  static int64_t aligned(int64_t elements);

 private:
  Shape with_rows(size_t i, int64_t rows) const;

  std::vector<StoredTensor> tensors_;
  ShardCounts counts_;
  DType compute_;
  std::vector<int> buckets_;
  std::vector<ShardLayout> rows_;  // by tensor
  std::vector<int64_t> offsets_;   // by tensor
  int64_t elements_ = 0, cut_elements_ = 0;
  FlatRange f32_masters_;
};

}  // namespace nereus
