#include "parallel/gathered_parameters.h"

#include <algorithm>

#include "base/check.h"
#include "comm/communicator.h"
#include "ops/elementwise.h"

namespace nereus {
namespace {

TensorView at(const Buffer& buffer, int64_t byte, DType dtype, const Shape& shape) {
  return TensorView(buffer.data() == nullptr ? nullptr : buffer.data() + byte, dtype, shape);
}

}  // namespace

GatheredParameters::GatheredParameters(Device device, const StoreLayout& layout,
                                       const ParameterStates& states, const RankWorld& world,
                                       const Options& options)
    : layout_(layout),
      states_(states),
      world_(world),
      options_(options),
      step_(std::make_unique<Event>(device)) {
  // One after the other, or from the start of their bucket's buffer.
  int64_t weights = 0, gradients = 0, shards = 0;
  int64_t most_weights = 0, most_gradients = 0, most_shards = 0;
  int bucket = BucketRing::kNone;
  for (size_t i = 0; i < layout.size(); ++i) {
    if (layout.tensors()[i].bucket != bucket) {
      bucket = layout.tensors()[i].bucket;
      if (options.reshard) weights = 0;
      if (options.reduce_each_microbatch) gradients = 0;
      shards = 0;
    }
    weight_begin_.push_back(weights);
    gradient_begin_.push_back(gradients);
    if (!layout.divided(i)) continue;
    const int64_t whole = StoreLayout::aligned(layout.padded_shape(i).count());
    if (!copy_in_place(i)) weights += whole * size_of(layout.read_dtype(i));
    if (!states.in_place().gradients) gradients += whole;
    shards += StoreLayout::aligned(layout.shard_shape(i).count());
    most_weights = std::max(most_weights, weights);
    most_gradients = std::max(most_gradients, gradients);
    most_shards = std::max(most_shards, shards);
  }
  if (layout.size() > 0) summed_.resize(static_cast<size_t>(layout.buckets().back()) + 1);
  constexpr int kOpen = 2;  // the one in use, and the next or the last
  if (options.reshard) {
    weight_ring_ = BucketRing(device, kOpen, most_weights, "gathered parameters");
  } else {
    weights_ = Buffer(device, weights, "gathered parameters");
  }
  if (!options.gradients) return;
  if (options.reduce_each_microbatch) {
    gradient_ring_ =
        BucketRing(device, kOpen, 4 * most_gradients, "gradients before they are reduced");
    addend_ = Buffer(device, 4 * most_shards, "gradients of a microbatch");
  } else {
    gradients_ = Buffer(device, 4 * gradients, "gradients before they are reduced");
  }
}

void GatheredParameters::each(int bucket, FunctionRef<void(size_t)> f) const {
  for (size_t i = 0; i < layout_.size(); ++i)
    if (layout_.tensors()[i].bucket == bucket) f(i);
}
void GatheredParameters::each_divided(int bucket, FunctionRef<void(size_t)> f) const {
  for (size_t i = 0; i < layout_.size(); ++i)
    if (layout_.tensors()[i].bucket == bucket && layout_.divided(i)) f(i);
}

bool GatheredParameters::copy_in_place(size_t i) const {
  return states_.in_place().copies && layout_.read_format(i) == ReadFormat::bf16_copy;
}

TensorView GatheredParameters::padded_weight(size_t i) const {
  if (!layout_.divided(i)) return states_.read(i);
  if (copy_in_place(i)) return states_.unsharded_copy(i);
  const Buffer* buffer = &weights_;
  const StoredTensor& t = layout_.tensors()[i];
  if (options_.reshard) {
    const BucketRing::Slot* slot = weight_ring_.find(t.bucket);
    NEREUS_CHECK(kContract, slot != nullptr, "{}: its bucket {} is not open", t.name, t.bucket);
    buffer = &slot->buffer;
  }
  return at(*buffer, weight_begin_[i], layout_.read_dtype(i), layout_.padded_shape(i));
}

TensorView GatheredParameters::own_gradient(size_t i) const {
  return states_.in_place().gradients ? states_.block_of_gradient(i) : states_.gradient(i);
}

TensorView GatheredParameters::padded_gradient(size_t i) const {
  if (states_.in_place().gradients) return states_.unsharded_gradient(i);
  if (!layout_.divided(i)) return states_.gradient(i);
  const Buffer* buffer = &gradients_;
  const StoredTensor& t = layout_.tensors()[i];
  if (options_.reduce_each_microbatch) {
    const BucketRing::Slot* slot = gradient_ring_.find(t.bucket);
    NEREUS_CHECK(kContract, slot != nullptr, "{}: the gradients of its bucket {} are not open",
                 t.name, t.bucket);
    buffer = &slot->buffer;
  }
  return at(*buffer, 4 * gradient_begin_[i], DType::f32, layout_.padded_shape(i));
}

Weight GatheredParameters::weight(size_t i) const {
  const StoredTensor& t = layout_.tensors()[i];
  return padded_weight(i).rows(0, t.rows()).reshape(t.shape);
}
TensorView GatheredParameters::gradient(size_t i) const {
  const StoredTensor& t = layout_.tensors()[i];
  return padded_gradient(i).rows(0, t.rows()).reshape(t.shape);
}

void GatheredParameters::begin_step(Stream& stream) {
  weight_ring_.forget();
  gradient_ring_.forget();
  summed_.assign(summed_.size(), false);
  if (stream.on_meta()) return;
  // Padding is zero always; in place the last step's reduced gradients lie there.
  if (states_.in_place().gradients)
    for (size_t i = 0; i < layout_.size(); ++i) clear_padding(stream, i);
  step_->record(stream);
  if (options_.exchange != nullptr) step_->wait(*options_.exchange);
}

void GatheredParameters::gather_shards(Stream& stream, int bucket) {
  each_divided(
      bucket, [&](size_t i) { group_of(i).all_gather(stream, padded_weight(i), states_.read(i)); });
}

void GatheredParameters::gather(Stream& stream, int bucket) {
  if (!options_.reshard) gather_shards(stream, bucket);
}

// The bucket's buffer, with its weights or with them on their way.
BucketRing::Slot& GatheredParameters::prefetch(Stream& stream, int bucket) {
  if (BucketRing::Slot* slot = weight_ring_.find(bucket)) return *slot;
  BucketRing::Slot& slot = weight_ring_.take(bucket);
  if (stream.on_meta()) return slot;
  Stream& x = exchange(stream);
  slot.left.wait(x);
  gather_shards(x, bucket);
  slot.filled.record(x);
  return slot;
}

void GatheredParameters::unshard(Stream& stream, int bucket, int next) {
  if (!options_.reshard) return;
  BucketRing::Slot& slot = prefetch(stream, bucket);
  slot.open = true;
  if (!stream.on_meta()) slot.filled.wait(stream);
  if (next >= 0) prefetch(stream, next);
}

void GatheredParameters::reshard(Stream& stream, int bucket) {
  if (!options_.reshard) return;
  BucketRing::Slot* const slot = weight_ring_.find(bucket);
  slot->open = false;
  if (!stream.on_meta()) slot->left.record(stream);
}

void GatheredParameters::begin_gradients(Stream& stream, int bucket) {
  if (!options_.reduce_each_microbatch) return;
  BucketRing::Slot& slot = gradient_ring_.take(bucket);
  if (slot.open) return;
  slot.open = true;
  if (stream.on_meta()) return;
  slot.left.wait(stream);
  // Later microbatches add to what is there: of a tensor that is not divided, the sum so far.
  if (summed_[static_cast<size_t>(bucket)]) {
    const TensorView all(slot.buffer.data(), DType::f32, {slot.buffer.bytes() / 4});
    ops::fill(stream, {.out = all, .value = 0});
    return;
  }
  // Padding is zero always; here another bucket has left its numbers.
  each_divided(bucket, [&](size_t i) { clear_padding(stream, i); });
}

void GatheredParameters::clear_padding(Stream& stream, size_t i) {
  const int64_t rows = layout_.tensors()[i].rows(), padded = layout_.rows(i).padded_rows();
  if (rows < padded) ops::fill(stream, {.out = padded_gradient(i).rows(rows, padded), .value = 0});
}

void GatheredParameters::end_gradients(Stream& stream, int bucket) {
  if (!options_.reduce_each_microbatch) return;
  BucketRing::Slot* const slot = gradient_ring_.find(bucket);
  slot->open = false;
  if (stream.on_meta()) return;
  slot->filled.record(stream);
  Stream& x = exchange(stream);
  slot->filled.wait(x);
  sum_into_shards(x, bucket, summed_[static_cast<size_t>(bucket)]);
  slot->left.record(x);
  slot->bucket = BucketRing::kNone;
  summed_[static_cast<size_t>(bucket)] = true;
}

// Unsharded gradients of a bucket into shards, which they are added to or make.
void GatheredParameters::sum_into_shards(Stream& stream, int bucket, bool add) {
  each_divided(bucket, [&](size_t i) {
    const TensorView mine = own_gradient(i);
    const TensorView sum = add ? at(addend_, 0, DType::f32, mine.shape) : mine;
    group_of(i).reduce_scatter(stream, sum, padded_gradient(i));
    if (add) ops::add(stream, {.out = mine, .a = mine, .b = sum});
  });
}

void GatheredParameters::reduce(Stream& stream, int bucket) {
  Stream& x = exchange(stream);
  if (&x != &stream) {
    step_->record(stream);
    step_->wait(x);
  }
  if (!options_.reduce_each_microbatch) sum_into_shards(x, bucket, false);
  each(bucket, [&](size_t i) {
    const TensorView mine = own_gradient(i);
    if (layout_.tensors()[i].replicated_on_tp) world_.group(MeshGroup::tp).all_reduce(x, mine);
    world_.group(MeshGroup::dp_replicate).all_reduce(x, mine);
  });
}

void GatheredParameters::finish(Stream& stream) {
  Stream& x = exchange(stream);
  if (&x != &stream) {
    step_->record(x);
    step_->wait(stream);
  }
  if (states_.in_place().gradients && !stream.on_meta()) states_.move_gradients_together(stream);
}

}  // namespace nereus
