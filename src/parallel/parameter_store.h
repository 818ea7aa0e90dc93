// Owns the parameters' state: f32 masters, f32 main gradients, the optimizer's two moments and,
// when kernels compute in bf16, bf16 copies. Each state is one flat buffer in the same layout,
// tensor after tensor, so that norm, clipping and the optimizer are one op over all of it.
//
// With a shard group these flat states hold this rank's shards alone (ShardLayout). Kernels read
// whole weights, which gather() brings together from the shards, and write whole gradients, which
// reduce() sums into the shards: over the shard group in the order of its ranks, then over
// replicas. With one rank whole and shard are the same memory, and both do nothing.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "device/device.h"
#include "parallel/data_groups.h"
#include "parallel/parameter.h"
#include "parallel/shard_layout.h"

namespace nereus {

// A view of a logical parameter, or of a buffer saved with it, under its name.
struct NamedView {
  std::string name;
  TensorView view;
  int64_t first_row = 0;  // of the parameter's dim 0: where this rank's rows begin
};

class ParameterStore {
 public:
  struct Options {
    DType compute = DType::f32;  // f32, or bf16: copies are kept beside the masters
    bool gradients = true;
    bool moments = true;
    DataGroups groups = {};
  };

  ParameterStore(Device, std::vector<StoredTensor>, Options);

  // What kernels read, whole: compute type, or f32 for a full_precision tensor. "No tensor" for
  // handle -1. As of the last gather(), where there are shards.
  ConstTensorView weight(TensorHandle) const;
  // What kernels write, whole: f32, the stored tensor's shape. "No tensor" for handle -1.
  TensorView gradient(TensorHandle) const;
  // This rank's rows of the master.
  TensorView master(TensorHandle) const;

  // Flat views over this rank's shards of all tensors, padding (always zero) included.
  TensorView masters() const { return flat(masters_, DType::f32); }
  TensorView gradients() const {  // reduced
    return flat(sharded() ? shard_gradients_ : gradients_, DType::f32);
  }
  TensorView first_moments() const { return flat(m_, DType::f32); }
  TensorView second_moments() const { return flat(v_, DType::f32); }
  TensorView copies() const;  // bf16; "no tensor" when kernels compute in f32

  // This rank's rows of the logical parameters, as strided views into the masters, or into the
  // reduced gradients. A parameter of which it has none is left out.
  std::vector<NamedView> master_views() const;
  std::vector<NamedView> gradient_views() const;

  // Draws every parameter's initial value; a function of the seed and its name alone.
  void initialize(Stream&, uint64_t seed);
  // Makes the bf16 copies from the masters: after loading or initializing. The optimizer keeps
  // them.
  void refresh_copies(Stream&);

  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  int64_t elements() const { return elements_; }  // of a flat buffer, padding included

  // Collectives of the groups, of one bucket's tensors or of all.
  void gather(Stream&, int bucket);
  void gather(Stream&);
  void reduce(Stream&, int bucket);
  void reduce(Stream&);
  const DataGroups& groups() const { return options_.groups; }

  // Bytes by owner, for the memory table.
  struct Bytes {
    int64_t masters = 0, gradients = 0, moments = 0, copies = 0;  // gradients: whole and reduced
    int64_t gathered = 0;                                         // whole weights, with shards
  };
  Bytes bytes() const;

 private:
  bool sharded() const { return options_.groups.shards() > 1; }
  bool copied(size_t tensor) const {  // do kernels read a bf16 copy of it?
    return options_.compute != DType::f32 && !tensors_[tensor].full_precision;
  }
  TensorView flat(const Buffer& buffer, DType dtype) const;
  // Tensor i of a buffer of shards, all its rows with padding.
  TensorView shard_of(const Buffer& buffer, DType dtype, size_t i) const;
  // Tensor i as kernels see it, with padding rows.
  TensorView whole_weight(size_t i) const;
  TensorView whole_gradient(size_t i) const;
  std::vector<NamedView> views(const Buffer& buffer) const;

  std::vector<StoredTensor> tensors_;
  std::vector<ShardLayout> layouts_;
  std::vector<int> buckets_;                          // in order of their first tensor
  std::vector<int64_t> offsets_;                      // in elements, of a buffer of shards
  std::vector<int64_t> whole_offsets_, whole_bytes_;  // of whole gradients (elements), weights
  int64_t elements_ = 0;
  Options options_;
  Buffer masters_, m_, v_, copies_;   // shards
  Buffer gradients_;                  // whole
  Buffer shard_gradients_, weights_;  // with shards: reduced gradients, whole weights
};

}  // namespace nereus
