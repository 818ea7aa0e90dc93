#include "parallel/parameter_store.h"

#include <algorithm>

#include "base/check.h"
#include "base/philox.h"
#include "comm/communicator.h"
#include "ops/elementwise.h"
#include "ops/init.h"
#include "tensor/format.h"

namespace nereus {
namespace {

constexpr int64_t kAlignment = Arena::kAlignment / 2;  // elements: a bf16 tensor starts aligned too

int64_t row_elements(const StoredTensor& t) {
  return t.shape.count() / std::max<int64_t>(t.rows(), 1);
}

int64_t aligned(int64_t elements) { return (elements + kAlignment - 1) / kAlignment * kAlignment; }

// So many rows of a tensor.
Shape with_rows(const Shape& shape, int64_t rows) {
  return shape.rank() == 1 ? Shape{rows} : Shape{rows, shape[shape.rank() - 1]};
}

TensorView at(const Buffer& buffer, int64_t byte, DType dtype, const Shape& shape) {
  return TensorView(buffer.data() == nullptr ? nullptr : buffer.data() + byte, dtype, shape);
}

// A box of a parameter as a view into a shard [rows, width].
NamedView box_of(const ParameterPart& part, const StoredTensor& tensor, const TensorView& shard,
                 const ShardLayout::Slice& s) {
  TensorView view = shard.rows(s.row, s.row + s.rows);
  NamedView out{part.parameter.name, view, part.parameter.shape, part.parameter.shape};
  for (int d = 0; d < out.origin.rank(); ++d) out.origin[d] = part.first(d);
  if (tensor.shape.rank() < 3) {
    out.origin[0] += s.first;
    return out;
  }
  const int64_t width = tensor.shape[2];
  out.view = TensorView(view.data, view.dtype, {s.panels, s.rows, width});
  out.view.stride = {tensor.shape[1] * width, width, 1, 0};
  out.origin[0] += s.panel;
  out.origin[1] += s.first;
  return out;
}

// A run of elements that follow each other in a view and in its parameter.
struct Run {
  TensorView view;  // flat
  int64_t first;    // index of its first element in the parameter
};

// The runs of a view from dim `dim` on; `first`: index in the parameter of the view's first
// element.
void add_runs(const NamedView& v, const TensorView& view, int dim, int64_t first,
              std::vector<Run>& out) {
  int64_t step = 1;  // elements of the parameter between two indices of this dim
  bool whole = view.contiguous();
  for (int d = dim + 1; d < v.whole.rank(); ++d) {
    step *= v.whole[d];
    whole = whole && v.origin[d] == 0 && view.dim(d - dim) == v.whole[d];
  }
  first += v.origin[dim] * step;
  if (whole) {
    out.push_back({view.reshape({view.count()}), first});
    return;
  }
  for (int64_t i = 0; i < view.dim(0); ++i) add_runs(v, view[i], dim + 1, first + i * step, out);
}

std::vector<Run> runs(const NamedView& v) {
  std::vector<Run> out;
  add_runs(v, v.view, 0, 0, out);
  return out;
}

void draw(Stream& stream, const Parameter& parameter, const std::vector<Run>& runs, uint64_t seed) {
  const Initial& initial = parameter.initial;
  for (const Run& run : runs) {
    if (initial.std == 0) {
      ops::fill(stream, {.out = run.view, .value = initial.mean});
      continue;
    }
    ops::init_normal(stream, {.out = run.view,
                              .seed = seed,
                              .stream = hash_name(parameter.name),
                              .first = run.first,
                              .mean = static_cast<float>(initial.mean),
                              .std = static_cast<float>(initial.std),
                              .low = static_cast<float>(initial.low),
                              .high = static_cast<float>(initial.high)});
  }
}

}  // namespace

ParameterStore::ParameterStore(Device device, std::vector<StoredTensor> tensors, Options options)
    : tensors_(std::move(tensors)), options_(options), step_(std::make_unique<Event>(device)) {
  // Where whole tensors lie: one after the other, or from the start of their bucket's buffer.
  int64_t whole = 0, bytes = 0, most_whole = 0, most_bytes = 0, most_shard = 0, shard = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const StoredTensor& t = tensors_[i];
    if (buckets_.empty() || buckets_.back() != t.bucket) {
      buckets_.push_back(t.bucket);
      if (options.reshard) bytes = 0;
      if (options.reduce_each_microbatch) whole = 0;
      shard = 0;
    }
    const ShardLayout& layout = layouts_.emplace_back(t.rows(), options.groups.shards(t.experts));
    whole_offsets_.push_back(whole);
    whole_bytes_.push_back(bytes);
    if (group_of(i) == nullptr) continue;
    whole += aligned(layout.padded_rows() * row_elements(t));
    bytes += aligned(layout.padded_rows() * row_elements(t)) * (copied(i) ? 2 : 4);
    shard += aligned(layout.rows_per_shard() * row_elements(t));
    most_whole = std::max(most_whole, whole);
    most_bytes = std::max(most_bytes, bytes);
    most_shard = std::max(most_shard, shard);
  }
  summed_.resize(static_cast<size_t>(buckets_.empty() ? 0 : buckets_.back() + 1));
  place_tensors();
  allocate_states(device);
  constexpr int kOpen = 2;  // the one in use, and the next or the last
  if (options.reshard) {
    weight_ring_ = BucketRing(device, kOpen, most_bytes, "gathered parameters");
  } else {
    whole_weights_ = Buffer(device, bytes, "gathered parameters");
  }
  if (!options.gradients) return;
  if (options.reduce_each_microbatch) {
    gradient_ring_ = BucketRing(device, kOpen, 4 * most_whole, "gradients before they are reduced");
    addend_ = Buffer(device, 4 * most_shard, "gradients of a microbatch");
  } else {
    whole_gradients_ = Buffer(device, 4 * whole, "gradients before they are reduced");
  }
}

// Tensors that tensor parallelism leaves whole come last, so that what a rank counts in a norm is
// one run; those of full precision in the middle are another.
void ParameterStore::place_tensors() {
  offsets_.resize(tensors_.size());
  const auto place = [this](bool same_on_tp, bool full_precision) {
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const StoredTensor& t = tensors_[i];
      if (t.same_on_tp != same_on_tp || t.full_precision != full_precision) continue;
      offsets_[i] = elements_;
      elements_ += aligned(layouts_[i].rows_per_shard() * row_elements(t));
    }
    return elements_;
  };
  full_begin_ = place(false, false);
  cut_elements_ = place(false, true);
  full_end_ = place(true, true);
  place(true, false);
}

TensorView ParameterStore::counted_gradients() const {
  const int64_t n = options_.groups.first_of_tp() ? elements_ : cut_elements_;
  return gradients().rows(0, n);
}

TensorView ParameterStore::flat(const Buffer& buffer, DType dtype) const {
  if (buffer.bytes() == 0) return {};
  return TensorView(buffer.data(), dtype, {elements_});
}

TensorView ParameterStore::shard_of(const Buffer& buffer, DType dtype, size_t i) const {
  return at(buffer, offsets_[i] * size_of(dtype), dtype,
            with_rows(tensors_[i].shape, layouts_[i].rows_per_shard()));
}

TensorView ParameterStore::read_shard(size_t i) const {
  if (copied(i)) return shard_of(copies_, DType::bf16, i);
  const int64_t first = whole_masters() ? 0 : full_begin_;
  return at(masters_, 4 * (offsets_[i] - first), DType::f32,
            with_rows(tensors_[i].shape, layouts_[i].rows_per_shard()));
}

TensorView ParameterStore::whole_weight(size_t i) const {
  const DType dtype = copied(i) ? DType::bf16 : DType::f32;
  if (group_of(i) == nullptr) return read_shard(i);
  const Buffer* buffer = &whole_weights_;
  if (options_.reshard) {
    const BucketRing::Slot* slot = weight_ring_.find(tensors_[i].bucket);
    NEREUS_CHECK(kContract, slot != nullptr, "{}: its bucket {} is not open", tensors_[i].name,
                 tensors_[i].bucket);
    buffer = &slot->buffer;
  }
  return at(*buffer, whole_bytes_[i], dtype,
            with_rows(tensors_[i].shape, layouts_[i].padded_rows()));
}

TensorView ParameterStore::whole_gradient(size_t i) const {
  if (group_of(i) == nullptr) return shard_of(gradients_, DType::f32, i);
  const Buffer* buffer = &whole_gradients_;
  if (options_.reduce_each_microbatch) {
    const BucketRing::Slot* slot = gradient_ring_.find(tensors_[i].bucket);
    NEREUS_CHECK(kContract, slot != nullptr, "{}: the gradients of its bucket {} are not open",
                 tensors_[i].name, tensors_[i].bucket);
    buffer = &slot->buffer;
  }
  return at(*buffer, 4 * whole_offsets_[i], DType::f32,
            with_rows(tensors_[i].shape, layouts_[i].padded_rows()));
}

ConstTensorView ParameterStore::weight(TensorHandle handle) const {
  if (handle < 0) return {};
  const auto i = static_cast<size_t>(handle);
  return whole_weight(i).rows(0, tensors_[i].rows()).reshape(tensors_[i].shape);
}

TensorView ParameterStore::gradient(TensorHandle handle) const {
  if (handle < 0) return {};
  const auto i = static_cast<size_t>(handle);
  return whole_gradient(i).rows(0, tensors_[i].rows()).reshape(tensors_[i].shape);
}

TensorView ParameterStore::master(TensorHandle handle) const {
  if (handle < 0) return {};
  const auto i = static_cast<size_t>(handle);
  const RowRange mine = layouts_[i].rows(shard_index(i));
  return shard_of(all_masters(), DType::f32, i).rows(0, mine.count());
}

std::vector<NamedView> ParameterStore::views(
    FunctionRef<TensorView(size_t)> shard_of_tensor) const {
  std::vector<NamedView> out;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const TensorView shard = shard_of_tensor(i);
    for (const ParameterPart& part : tensors_[i].parts) {
      for (const ShardLayout::Slice& s :
           layouts_[i].slices(part, tensors_[i].shape, shard_index(i)))
        out.push_back(box_of(part, tensors_[i], shard, s));
    }
  }
  return out;
}

std::vector<NamedView> ParameterStore::master_views() const {
  const Buffer& masters = all_masters();
  return views([&](size_t i) { return shard_of(masters, DType::f32, i); });
}
std::vector<NamedView> ParameterStore::gradient_views() const {
  return views([&](size_t i) { return shard_of(gradients_, DType::f32, i); });
}
std::vector<NamedView> ParameterStore::weight_views() const {
  return views([&](size_t i) { return read_shard(i); });
}

void ParameterStore::begin_step(Stream& stream) {
  assembled_ = false;
  weight_ring_.forget();
  gradient_ring_.forget();
  summed_.assign(summed_.size(), false);
  if (stream.on_meta()) return;
  step_->record(stream);
  if (options_.exchange != nullptr) step_->wait(*options_.exchange);
}

void ParameterStore::gather_into_place(Stream& stream, int bucket) {
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (tensors_[i].bucket != bucket || group_of(i) == nullptr) continue;
    group_of(i)->all_gather(stream, whole_weight(i), read_shard(i));
  }
}

// The bucket's buffer, with its weights or with them on their way.
BucketRing::Slot& ParameterStore::bring(Stream& stream, int bucket) {
  if (BucketRing::Slot* slot = weight_ring_.find(bucket)) return *slot;
  BucketRing::Slot& slot = weight_ring_.take(bucket);
  if (stream.on_meta()) return slot;
  Stream& x = exchange(stream);
  slot.left.wait(x);
  gather_into_place(x, bucket);
  slot.filled.record(x);
  return slot;
}

void ParameterStore::open(Stream& stream, int bucket, int next) {
  if (!options_.reshard) return;
  BucketRing::Slot& slot = bring(stream, bucket);
  slot.open = true;
  if (!stream.on_meta()) slot.filled.wait(stream);
  if (next >= 0) bring(stream, next);
}

void ParameterStore::close(Stream& stream, int bucket) {
  if (!options_.reshard) return;
  BucketRing::Slot* const slot = weight_ring_.find(bucket);
  slot->open = false;
  if (!stream.on_meta()) slot->left.record(stream);
}

void ParameterStore::open_gradients(Stream& stream, int bucket) {
  if (!options_.reduce_each_microbatch) return;
  BucketRing::Slot& slot = gradient_ring_.take(bucket);
  if (slot.open) return;
  slot.open = true;
  if (stream.on_meta()) return;
  slot.left.wait(stream);
  // Later microbatches add to what is there: of a tensor that is not divided, the sum so far.
  const TensorView all(slot.buffer.data(), DType::f32, {slot.buffer.bytes() / 4});
  if (summed_[static_cast<size_t>(bucket)]) {
    ops::fill(stream, {.out = all, .value = 0});
    return;
  }
  // Padding is zero always; here another bucket has left its numbers.
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const int64_t rows = tensors_[i].rows(), padded = layouts_[i].padded_rows();
    if (tensors_[i].bucket == bucket && group_of(i) != nullptr && rows < padded)
      ops::fill(stream, {.out = whole_gradient(i).rows(rows, padded), .value = 0});
  }
}

void ParameterStore::close_gradients(Stream& stream, int bucket) {
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

// Whole gradients of a bucket into shards, which they are added to or make.
void ParameterStore::sum_into_shards(Stream& stream, int bucket, bool add) {
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (tensors_[i].bucket != bucket || group_of(i) == nullptr) continue;
    const TensorView mine = shard_of(gradients_, DType::f32, i);
    const TensorView sum = add ? at(addend_, 0, DType::f32, mine.shape) : mine;
    group_of(i)->reduce_scatter(stream, sum, whole_gradient(i));
    if (add) ops::add(stream, {.out = mine, .a = mine, .b = sum});
  }
}

void ParameterStore::gather(Stream& stream, int bucket) {
  if (!options_.reshard) gather_into_place(stream, bucket);
}

void ParameterStore::reduce(Stream& stream, int bucket) {
  Stream& x = exchange(stream);
  if (&x != &stream) {
    step_->record(stream);
    step_->wait(x);
  }
  if (!options_.reduce_each_microbatch) sum_into_shards(x, bucket, false);
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (tensors_[i].bucket != bucket) continue;
    const TensorView mine = shard_of(gradients_, DType::f32, i);
    if (tensors_[i].same_on_tp) options_.groups.tp->all_reduce(x, mine);
    if (options_.groups.replicate != nullptr) options_.groups.replicate->all_reduce(x, mine);
  }
}

void ParameterStore::finish(Stream& stream) {
  Stream& x = exchange(stream);
  if (&x == &stream) return;
  step_->record(x);
  step_->wait(stream);
}

void ParameterStore::gather(Stream& stream) {
  for (const int bucket : buckets_) gather(stream, bucket);
}
void ParameterStore::reduce(Stream& stream) {
  for (const int bucket : buckets_) reduce(stream, bucket);
  finish(stream);
}

void ParameterStore::initialize(Stream& stream, uint64_t seed) {
  assembled_ = true;  // all of it is written
  size_t next = 0;
  const std::vector<NamedView> mine = master_views();
  for (const StoredTensor& t : tensors_) {
    for (const ParameterPart& part : t.parts) {
      // Views are in the order of parts, without those of which this rank has no row.
      for (; next < mine.size() && mine[next].name == part.parameter.name; ++next)
        draw(stream, part.parameter, runs(mine[next]), seed);
    }
  }
  refresh_copies(stream);
}

ParameterStore::Bytes ParameterStore::bytes() const {
  Bytes b{.masters = masters_.bytes(),
          .gradients = gradients_.bytes() + whole_gradients_.bytes() + gradient_ring_.bytes() +
                       addend_.bytes(),
          .moments = m_.bytes() + v_.bytes(),
          .copies = copies_.bytes(),
          .gathered = whole_weights_.bytes() + weight_ring_.bytes(),
          .remainders = remainders_.bytes()};
  if (host_ == nullptr) return b;
  b.chunks = host_->device_bytes();
  b.host_moments = host_->host_bytes(0) + host_->host_bytes(1);
  if (masters_on_host())
    (options_.split_masters ? b.host_remainders : b.host_masters) = host_->host_bytes(2);
  return b;
}

}  // namespace nereus
