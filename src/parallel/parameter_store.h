// Owns the parameters' state: f32 masters, f32 main gradients, the optimizer's two moments and,
// when kernels compute in bf16, bf16 copies. Each state is one flat buffer in the same layout,
// tensor after tensor, so that norm, clipping and the optimizer are one op over all of it.
//
// Masters of tensors that have copies can be kept as what the copies lack (split_masters: see
// ops/split_master.h), and moments and masters in host memory (Offload). Masters are then not
// "whole": outside of steps they can be put together as f32 in the memory of the gradients.
//
// With a shard group these flat states hold this rank's shards alone (ShardLayout). Kernels read
// whole weights, which gather() brings together from the shards, and write whole gradients, which
// reduce() sums into the shards: over the shard group in the order of its ranks, then over the tp
// group (StoredTensor::same_on_tp), then over replicas. With one rank whole and shard are the same
// memory, and both do nothing. Routed experts have a shard group of their own.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "device/device.h"
#include "parallel/bucket_ring.h"
#include "parallel/host_states.h"
#include "parallel/named_view.h"
#include "parallel/parameter.h"
#include "parallel/rank_groups.h"
#include "parallel/shard_layout.h"

namespace nereus {

// What is kept in host memory: nothing, the moments, or the moments and what of the masters no
// kernel of a pass reads.
enum class Offload : uint8_t { none, moments, states };

class ParameterStore {
 public:
  struct Options {
    DType compute = DType::f32;  // f32, or bf16: copies are kept beside the masters
    bool gradients = true;
    bool moments = true;
    DType moment_type = DType::f32;              // or bf16
    bool split_masters = false;                  // with bf16 copies, gradients and moments only
    Offload offload = Offload::none;             // `states` likewise
    int64_t offload_chunk = HostStates::kChunk;  // elements
    RankGroups groups = {};
    // Whole weights live only while their bucket is open (reshard_after_forward), gathered one
    // ahead; else all of them for the step.
    bool reshard = false;
    // Whole gradients live only while their bucket is open, and are summed into the shards after
    // each microbatch; else all of them, summed after the last.
    bool reduce_each_microbatch = false;
    Stream* exchange = nullptr;  // where gathers and sums are done; null: where kernels run
  };

  ParameterStore(Device, std::vector<StoredTensor>, Options);

  // What kernels read, whole: compute type, or f32 for a full_precision tensor. "No tensor" for
  // handle -1. As of the last gather(), where there are shards.
  ConstTensorView weight(TensorHandle) const;
  // What kernels write, whole: f32, the stored tensor's shape. "No tensor" for handle -1.
  TensorView gradient(TensorHandle) const;
  // This rank's rows of the master.
  TensorView master(TensorHandle) const;

  // Masters that are not whole are put together in the memory of the gradients, whose contents are
  // lost: until the next step begins, masters(), master() and master_views() are f32 views there.
  void assemble_masters(Stream&);

  // Flat views over this rank's shards of all tensors, padding (always zero) included.
  TensorView masters() const;
  TensorView gradients() const { return flat(gradients_, DType::f32); }  // reduced
  // The part of them that this rank counts in a norm: all ranks of a model together count each
  // element once.
  TensorView counted_gradients() const;

  // The states of consecutive elements, on the device.
  struct States {
    TensorView master;     // f32; or "no tensor", and
    TensorView remainder;  // i16: what the copy lacks
    TensorView copy;       // bf16; "no tensor" when kernels compute in f32
    TensorView gradient;   // f32
    // The sign of a second moment is the master's when that is split: its magnitude counts.
    TensorView first_moment, second_moment;
  };
  // Calls `body` for states that together are all; what it enqueues on the stream may change them,
  // and with `write` that is kept. With everything on the device and whole it is one call.
  void visit_states(Stream&, bool write, FunctionRef<void(const States&)> body);

  // This rank's rows of the logical parameters, as strided views into the masters, or into the
  // reduced gradients. A parameter of which it has none is left out.
  std::vector<NamedView> master_views() const;
  std::vector<NamedView> gradient_views() const;
  // The same of what kernels read: copies, or masters where there are none.
  std::vector<NamedView> weight_views() const;

  // Draws every parameter's initial value; a function of the seed and its name alone.
  void initialize(Stream&, uint64_t seed);
  // Makes the bf16 copies from the masters, and keeps the masters that are not whole: after loading
  // or initializing masters or moments. The optimizer keeps them.
  void refresh_copies(Stream&);

  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  int64_t elements() const { return elements_; }  // of a flat buffer, padding included

  // A step begins, or weights have changed: what was gathered is old, no gradient is written.
  void begin_step(Stream&);
  // Between open() and close() of its bucket a tensor's weight is whole. `next` is brought
  // meanwhile. What is whole for the whole step needs neither.
  void open(Stream&, int bucket, int next = -1);
  void close(Stream&, int bucket);
  // Between these a tensor's gradient can be written: added to, after the step's first microbatch.
  void open_gradients(Stream&, int bucket);
  void close_gradients(Stream&, int bucket);
  // All weights of a bucket that are not resharded; its gradients into reduced ones, after its last
  // wgrad, which are there after finish().
  void gather(Stream&, int bucket);
  void reduce(Stream&, int bucket);
  void finish(Stream&);
  void gather(Stream&);
  void reduce(Stream&);
  const RankGroups& groups() const { return options_.groups; }

  // Bytes by owner, for the memory table: of the device's memory, but for host_*.
  struct Bytes {
    int64_t masters = 0, gradients = 0, moments = 0, copies = 0;  // gradients: whole and reduced
    int64_t gathered = 0;                                         // whole weights, with shards
    int64_t remainders = 0;                                       // of split masters
    int64_t chunks = 0;  // of states in host memory, on the device
    int64_t host_masters = 0, host_remainders = 0, host_moments = 0;
  };
  Bytes bytes() const;

 private:
  // The group that divides a tensor; null: it is whole here.
  Communicator* group_of(size_t tensor) const {
    return options_.groups.shard_of(tensors_[tensor].experts);
  }
  int shard_index(size_t tensor) const {
    return options_.groups.shard_index(tensors_[tensor].experts);
  }
  bool moments_on_host() const { return options_.moments && options_.offload != Offload::none; }
  bool masters_on_host() const { return options_.offload == Offload::states; }
  bool whole_masters() const { return !options_.split_masters && !masters_on_host(); }
  bool copied(size_t tensor) const {  // do kernels read a bf16 copy of it?
    return options_.compute != DType::f32 && !tensors_[tensor].full_precision;
  }
  TensorView flat(const Buffer& buffer, DType dtype) const;
  void allocate_states(Device);
  States states_of(int64_t begin, int64_t end, const std::vector<TensorView>& on_host) const;
  // Tensor i of a buffer of shards, all its rows with padding.
  TensorView shard_of(const Buffer& buffer, DType dtype, size_t i) const;
  TensorView read_shard(size_t i) const;  // as kernels read it
  // Tensor i as kernels see it, with padding rows: its shard's own memory where it is not divided.
  TensorView whole_weight(size_t i) const;
  TensorView whole_gradient(size_t i) const;
  std::vector<NamedView> views(FunctionRef<TensorView(size_t)> shard) const;
  const Buffer& all_masters() const;
  void place_tensors();
  Stream& exchange(Stream& stream) const {
    return options_.exchange != nullptr && !stream.on_meta() ? *options_.exchange : stream;
  }
  BucketRing::Slot& bring(Stream&, int bucket);
  void gather_into_place(Stream&, int bucket);
  void sum_into_shards(Stream&, int bucket, bool add);

  std::vector<StoredTensor> tensors_;
  std::vector<ShardLayout> layouts_;
  std::vector<int> buckets_;                          // in order of their first tensor
  std::vector<int64_t> offsets_;                      // in elements, of a buffer of shards
  std::vector<int64_t> whole_offsets_, whole_bytes_;  // of divided tensors' whole
                                                      // gradients (elements), weights
  int64_t elements_ = 0, cut_elements_ = 0;  // of all tensors; of those that are not same_on_tp,
                                             // which come first
  int64_t full_begin_ = 0, full_end_ = 0;    // of full_precision tensors: no kernel reads a copy
  Options options_;
  Buffer masters_;  // shards; not whole: of full_precision ones only
  Buffer gradients_, m_, v_, copies_, remainders_;
  std::unique_ptr<HostStates> host_;  // of all elements: moments; then remainders or masters
  bool assembled_ = false;
  Buffer whole_gradients_, whole_weights_;  // of tensors that are divided, or:
  BucketRing weight_ring_, gradient_ring_;
  Buffer addend_;                // a bucket's summed gradients, before they are added
  std::vector<bool> summed_;     // by bucket: in this step
  std::unique_ptr<Event> step_;  // the weights are those of this step
};

}  // namespace nereus
