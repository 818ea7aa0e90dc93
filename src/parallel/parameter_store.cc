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

int64_t aligned(int64_t elements) { return (elements + kAlignment - 1) / kAlignment * kAlignment; }

Shape with_rows(Shape shape, int64_t rows) {
  shape[0] = rows;
  return shape;
}

TensorView at(const Buffer& buffer, int64_t byte, DType dtype, const Shape& shape) {
  return TensorView(buffer.data() == nullptr ? nullptr : buffer.data() + byte, dtype, shape);
}

// The contiguous pieces of a parameter inside its stored tensor, with the index of their first
// element in the parameter: one piece, or one an expert when w1 and w3 alternate.
struct Piece {
  TensorView view;
  int64_t first;
};

std::vector<Piece> pieces(const TensorView& part, int64_t first_row) {
  const int64_t step = part.count() / part.dim(0), first = first_row * step;
  if (part.contiguous()) return {{part.reshape({part.count()}), first}};
  std::vector<Piece> out;
  for (int64_t i = 0; i < part.dim(0); ++i) {
    const TensorView row = part[i];
    NEREUS_CHECK(kContract, row.contiguous(), "parameter part {} is cut on its last dims", part);
    out.push_back({row.reshape({step}), first + i * step});
  }
  return out;
}

}  // namespace

ParameterStore::ParameterStore(Device device, std::vector<StoredTensor> tensors, Options options)
    : tensors_(std::move(tensors)), options_(options) {
  int64_t whole = 0, bytes = 0;
  for (const StoredTensor& t : tensors_)
    if (std::find(buckets_.begin(), buckets_.end(), t.bucket) == buckets_.end())
      buckets_.push_back(t.bucket);
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const Shape& shape = tensors_[i].shape;
    layouts_.emplace_back(shape[0], options.groups.shards());
    const ShardLayout& layout = layouts_.back();
    const int64_t row = shape.count() / std::max<int64_t>(shape[0], 1);
    offsets_.push_back(elements_);
    elements_ += aligned(layout.rows_per_shard() * row);
    whole_offsets_.push_back(whole);
    whole_bytes_.push_back(bytes);
    whole += aligned(layout.padded_rows() * row);
    bytes += aligned(layout.padded_rows() * row) * (copied(i) ? 2 : 4);
  }
  masters_ = Buffer(device, 4 * elements_, "parameters (f32 masters)");
  if (options.gradients) gradients_ = Buffer(device, 4 * whole, "gradients (f32)");
  if (options.moments) {
    m_ = Buffer(device, 4 * elements_, "optimizer (first moments)");
    v_ = Buffer(device, 4 * elements_, "optimizer (second moments)");
  }
  if (options.compute != DType::f32) copies_ = Buffer(device, 2 * elements_, "parameters (bf16)");
  if (!sharded()) return;
  weights_ = Buffer(device, bytes, "gathered parameters");
  if (options.gradients)
    shard_gradients_ = Buffer(device, 4 * elements_, "gradients (f32, reduced)");
}

TensorView ParameterStore::flat(const Buffer& buffer, DType dtype) const {
  if (buffer.bytes() == 0) return {};
  return TensorView(buffer.data(), dtype, {elements_});
}

TensorView ParameterStore::copies() const { return flat(copies_, DType::bf16); }

TensorView ParameterStore::shard_of(const Buffer& buffer, DType dtype, size_t i) const {
  return at(buffer, offsets_[i] * size_of(dtype), dtype,
            with_rows(tensors_[i].shape, layouts_[i].rows_per_shard()));
}

TensorView ParameterStore::whole_weight(size_t i) const {
  const DType dtype = copied(i) ? DType::bf16 : DType::f32;
  if (!sharded()) return shard_of(copied(i) ? copies_ : masters_, dtype, i);
  return at(weights_, whole_bytes_[i], dtype,
            with_rows(tensors_[i].shape, layouts_[i].padded_rows()));
}

TensorView ParameterStore::whole_gradient(size_t i) const {
  return at(gradients_, 4 * whole_offsets_[i], DType::f32,
            with_rows(tensors_[i].shape, layouts_[i].padded_rows()));
}

ConstTensorView ParameterStore::weight(TensorHandle handle) const {
  if (handle < 0) return {};
  const auto i = static_cast<size_t>(handle);
  return whole_weight(i).rows(0, tensors_[i].shape[0]);
}

TensorView ParameterStore::gradient(TensorHandle handle) const {
  if (handle < 0) return {};
  const auto i = static_cast<size_t>(handle);
  return whole_gradient(i).rows(0, tensors_[i].shape[0]);
}

TensorView ParameterStore::master(TensorHandle handle) const {
  if (handle < 0) return {};
  const auto i = static_cast<size_t>(handle);
  const RowRange mine = layouts_[i].rows(options_.groups.shard_index());
  return shard_of(masters_, DType::f32, i).rows(0, mine.count());
}

std::vector<NamedView> ParameterStore::views(const Buffer& buffer) const {
  std::vector<NamedView> out;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const TensorView shard = shard_of(buffer, DType::f32, i);
    for (const ParameterPart& part : tensors_[i].parts) {
      const ShardLayout::Slice s = layouts_[i].slice(part, options_.groups.shard_index());
      if (s.parameter.count() == 0) continue;
      TensorView view = shard.rows(s.row, s.row + s.parameter.count());
      if (part.dim > 0)
        view = view.slice(part.dim, part.begin, part.begin + part.parameter.shape[part.dim]);
      out.push_back({part.parameter.name, view, s.parameter.begin});
    }
  }
  return out;
}

std::vector<NamedView> ParameterStore::master_views() const { return views(masters_); }
std::vector<NamedView> ParameterStore::gradient_views() const {
  return views(sharded() ? shard_gradients_ : gradients_);
}

void ParameterStore::gather(Stream& stream, int bucket) {
  if (!sharded()) return;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (tensors_[i].bucket != bucket) continue;
    const TensorView whole = whole_weight(i);
    options_.groups.shard->all_gather(stream, whole,
                                      shard_of(copied(i) ? copies_ : masters_, whole.dtype, i));
  }
}

void ParameterStore::reduce(Stream& stream, int bucket) {
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (tensors_[i].bucket != bucket) continue;
    TensorView mine = whole_gradient(i);
    if (sharded()) {
      mine = shard_of(shard_gradients_, DType::f32, i);
      options_.groups.shard->reduce_scatter(stream, mine, whole_gradient(i));
    }
    if (options_.groups.replicate != nullptr) options_.groups.replicate->all_reduce(stream, mine);
  }
}

void ParameterStore::gather(Stream& stream) {
  for (const int bucket : buckets_) gather(stream, bucket);
}
void ParameterStore::reduce(Stream& stream) {
  for (const int bucket : buckets_) reduce(stream, bucket);
}

void ParameterStore::initialize(Stream& stream, uint64_t seed) {
  size_t next = 0;
  const std::vector<NamedView> mine = master_views();
  for (const StoredTensor& t : tensors_) {
    for (const ParameterPart& part : t.parts) {
      // Views are in the order of parts, without those of which this rank has no row.
      if (next == mine.size() || mine[next].name != part.parameter.name) continue;
      const NamedView& view = mine[next++];
      const Initial& initial = part.parameter.initial;
      for (const Piece& piece : pieces(view.view, view.first_row)) {
        if (initial.std == 0) {
          ops::fill(stream, {.out = piece.view, .value = initial.mean});
        } else {
          ops::init_normal(stream, {.out = piece.view,
                                    .seed = seed,
                                    .stream = hash_name(part.parameter.name),
                                    .first = piece.first,
                                    .mean = static_cast<float>(initial.mean),
                                    .std = static_cast<float>(initial.std),
                                    .low = static_cast<float>(initial.low),
                                    .high = static_cast<float>(initial.high)});
        }
      }
    }
  }
  refresh_copies(stream);
}

void ParameterStore::refresh_copies(Stream& stream) {
  if (copies_.bytes() == 0) return;
  ops::cast(stream, {.out = copies(), .x = masters()});
}

ParameterStore::Bytes ParameterStore::bytes() const {
  return {.masters = masters_.bytes(),
          .gradients = gradients_.bytes() + shard_gradients_.bytes(),
          .moments = m_.bytes() + v_.bytes(),
          .copies = copies_.bytes(),
          .gathered = weights_.bytes()};
}

}  // namespace nereus
