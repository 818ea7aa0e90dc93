// Unsharded weights, which kernels read, and unsharded gradients, which they write, where this rank
// keeps shards of the state alone: gathers the one from the shards and sums the other into them.
//
// Gradients are summed over the shard group in the order of its ranks, then over the tp group
// (StoredTensor::replicated_on_tp), then over replicas. A tensor that no group divides has no
// memory here: its weight and its gradient are the state's own. Nor has one whose shards lie inside
// of it (parallel/in_place.h): then finish() also moves reduced gradients to where they are read.
//
// Tensors are gathered and reduced by bucket (StoredTensor::bucket: a block, say). In a step:
//
//   begin_step                   the executor    weights may have changed; no gradient is written
//   gather                       the executor    this bucket's weights are used from here on
//   unshard, reshard             the stage       around each use of the bucket's weights
//   begin_gradients,             the stage       around each pass that writes or adds to the
//     end_gradients                              bucket's gradients
//   reduce                       the executor    no pass of this step writes them any more
//   finish                       the executor    the reduced gradients will be read: they are there
//                                                for what is enqueued from here on
//
// Callers do all of that, whatever the options. They say when a bucket is used; the options decide
// what that means, weights and gradients each in one of two ways:
//
//                     unsharded for the step      unsharded while it is used
//   weights                                       (reshard)
//     gather          all-gathers                 -
//     unshard         -                           all-gathers what is not there, and then `next`
//     reshard         -                           another bucket may take the memory
//   gradients                                     (reduce_each_microbatch)
//     begin_gradients -                           takes memory
//     end_gradients   -                           reduce-scatters, adds to the shards' sums
//     reduce          reduce-scatters; sums       sums over tp and replicas
//                     over tp and replicas
//
// Gathers and sums may run on a stream of their own (Options::exchange); events order the two. On
// the meta device buckets take memory as always, and nothing is exchanged.
#pragma once

#include <memory>
#include <vector>

#include "device/device.h"
#include "parallel/bucket_ring.h"
#include "parallel/parameter_states.h"
#include "parallel/rank_world.h"
#include "parallel/store_layout.h"
#include "parallel/weight.h"

namespace nereus {

class GatheredParameters {
 public:
  struct Options {
    bool gradients = true;
    bool reshard = false;
    bool reduce_each_microbatch = false;
    Stream* exchange = nullptr;  // where gathers and sums are done; null: where kernels run
  };

  // Layout, states and the world, whose groups are those of the layout, must outlive this.
  GatheredParameters(Device, const StoreLayout&, const ParameterStates&, const RankWorld&,
                     const Options&);

  // Of stored tensor i, in its own shape. Error{kContract} while its bucket is not unsharded, where
  // that matters.
  Weight weight(size_t i) const;
  TensorView gradient(size_t i) const;

  void begin_step(Stream&);
  void gather(Stream&, int bucket);
  void unshard(Stream&, int bucket, int next);  // next -1: none
  void reshard(Stream&, int bucket);
  void begin_gradients(Stream&, int bucket);
  void end_gradients(Stream&, int bucket);
  void reduce(Stream&, int bucket);
  void finish(Stream&);

  // Of the device's memory.
  int64_t weight_bytes() const { return weights_.bytes() + weight_ring_.bytes(); }
  int64_t gradient_bytes() const {
    return gradients_.bytes() + gradient_ring_.bytes() + addend_.bytes();
  }

 private:
  Communicator& group_of(size_t i) const {
    return world_.group(RankWorld::shard(layout_.tensors()[i].experts));
  }
  Stream& exchange(Stream& stream) const {
    return options_.exchange != nullptr && !stream.on_meta() ? *options_.exchange : stream;
  }
  // Calls f for each tensor of the bucket, or each that is divided.
  void each(int bucket, FunctionRef<void(size_t)> f) const;
  void each_divided(int bucket, FunctionRef<void(size_t)> f) const;
  // Tensor i with padding rows (StoreLayout::padded_shape).
  TensorView padded_weight(size_t i) const;
  TensorView padded_gradient(size_t i) const;
  bool copy_in_place(size_t i) const;
  TensorView own_gradient(size_t i) const;  // this rank's block of it, once it has been reduced
  void clear_padding(Stream&, size_t i);    // of the unsharded gradient
  BucketRing::Slot& prefetch(Stream&, int bucket);
  void gather_shards(Stream&, int bucket);
  void sum_into_shards(Stream&, int bucket, bool add);

  const StoreLayout& layout_;
  const ParameterStates& states_;
  const RankWorld& world_;
  Options options_;
  // Where a divided tensor begins: in all unsharded weights or gradients, or in its bucket's.
  std::vector<int64_t> weight_begin_;    // bytes
  std::vector<int64_t> gradient_begin_;  // elements
  Buffer weights_, gradients_;           // of all buckets; or
  BucketRing weight_ring_, gradient_ring_;
  Buffer addend_;                // a bucket's summed gradients, before they are added
  std::vector<bool> summed_;     // by bucket: in this step
  std::unique_ptr<Event> step_;  // the weights are those of this step
};

}  // namespace nereus
