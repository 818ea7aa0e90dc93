#include "parallel/store_layout.h"

#include "base/check.h"
#include "tensor/arena.h"
#include "tensor/format.h"

namespace nereus {
namespace {

int64_t stride_of(const StoreLayout::Slice& s, int dim) {
  if (s.extent.rank() == 3 && dim == 0) return s.panel_stride;
  return dim + 1 < s.extent.rank() ? s.extent[s.extent.rank() - 1] : 1;
}

// The runs of a slice from dim `dim` on, whose first element is `at` (count not used).
void add_runs(const StoreLayout::Slice& s, int dim, StoreLayout::Run at,
              std::vector<StoreLayout::Run>& out) {
  int64_t step = 1;   // elements of the parameter between two indices of this dim
  int64_t inner = 1;  // elements of the slice in one index
  for (int d = dim + 1; d < s.whole.rank(); ++d) {
    step *= s.whole[d];
    inner *= s.extent[d];
  }
  const int64_t stride = stride_of(s, dim);
  at.index += s.origin[dim] * step;
  if (inner == step && (stride == inner || s.extent[dim] == 1)) {
    out.push_back({at.flat, at.index, s.extent[dim] * inner});
    return;
  }
  for (int64_t i = 0; i < s.extent[dim]; ++i)
    add_runs(s, dim + 1, {at.flat + i * stride, at.index + i * step, 0}, out);
}

// Parts are rows of their tensor, as wide as it is; of experts, rows of each.
void check(const ParameterPart& part, const StoredTensor& t) {
  const int rows = t.shape.rank() > 2 ? 1 : 0;
  Shape expected = t.shape;
  const bool ranks = part.extent().rank() == t.shape.rank();
  if (ranks && part.dim == rows) expected[rows] = part.extent()[rows];
  NEREUS_CHECK(kContract,
               part.extent() == expected && part.begin >= 0 &&
                   part.begin + part.extent()[part.dim] <= t.shape[part.dim],
               "{} {} is not rows {} and on of {} {}", part.parameter.name, part.extent(),
               part.begin, t.name, t.shape);
}

}  // namespace

ShardCounts shard_counts(const Mesh& mesh) {
  return {.dense = mesh.size(MeshGroup::dp_shard_cp),
          .experts = mesh.size(MeshGroup::expert_shard)};
}
ShardIndex shard_index(const Mesh& mesh, int rank) {
  return {.dense = mesh.position(MeshGroup::dp_shard_cp, rank),
          .experts = mesh.position(MeshGroup::expert_shard, rank)};
}

int64_t StoreLayout::aligned(int64_t elements) {
  constexpr int64_t kAlignment = Arena::kAlignment / 2;
  return (elements + kAlignment - 1) / kAlignment * kAlignment;
}

StoreLayout::StoreLayout(std::vector<StoredTensor> tensors, const ShardCounts& counts,
                         DType compute)
    : tensors_(std::move(tensors)), counts_(counts), compute_(compute), offsets_(tensors_.size()) {
  for (const StoredTensor& t : tensors_) {
    for (const ParameterPart& part : t.parts) check(part, t);
    rows_.emplace_back(t.rows(), counts.of(t));
    if (buckets_.empty() || buckets_.back() != t.bucket) buckets_.push_back(t.bucket);
  }
  const auto place = [this](bool replicated_on_tp, ReadFormat format) {
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const StoredTensor& t = tensors_[i];
      if (t.replicated_on_tp != replicated_on_tp || t.read_format != format) continue;
      offsets_[i] = elements_;
      elements_ += aligned(shard_shape(i).count());
    }
    return elements_;
  };
  f32_masters_.begin = place(false, ReadFormat::bf16_copy);
  cut_elements_ = place(false, ReadFormat::f32_master);
  f32_masters_.end = place(true, ReadFormat::f32_master);
  place(true, ReadFormat::bf16_copy);
}

Shape StoreLayout::with_rows(size_t i, int64_t rows) const {
  const Shape& shape = tensors_[i].shape;
  return shape.rank() == 1 ? Shape{rows} : Shape{rows, shape[shape.rank() - 1]};
}

std::vector<StoreLayout::Slice> StoreLayout::slices(const ShardIndex& shard) const {
  std::vector<Slice> out;
  for (size_t i = 0; i < size(); ++i)
    for (Slice& s : slices(i, shard)) out.push_back(std::move(s));
  return out;
}

std::vector<StoreLayout::Slice> StoreLayout::slices(size_t tensor, const ShardIndex& shard) const {
  const StoredTensor& t = tensors_[tensor];
  const bool experts = t.shape.rank() > 2;
  const int64_t width = t.shape.rank() > 1 ? t.shape[t.shape.rank() - 1] : 1;
  std::vector<Slice> out;
  for (const ParameterPart& part : t.parts) {
    for (const ShardLayout::Slice& box : rows_[tensor].slices(part, t.shape, shard.of(t))) {
      Slice s{.name = part.parameter.name,
              .kind = part.parameter.kind,
              .whole = part.parameter.shape,
              .origin = part.parameter.shape,
              .extent = part.extent(),
              .flat = offsets_[tensor] + box.row * width,
              .tensor = static_cast<TensorHandle>(tensor)};
      for (int d = 0; d < s.origin.rank(); ++d) s.origin[d] = part.first(d);
      if (experts) {
        s.origin[0] += box.panel;
        s.extent[0] = box.panels;
        s.panel_stride = t.shape[1] * width;
      }
      const int rows = experts ? 1 : 0;  // the dim of rows
      s.origin[rows] += box.first;
      s.extent[rows] = box.rows;
      out.push_back(std::move(s));
    }
  }
  return out;
}

std::vector<StoreLayout::Run> StoreLayout::runs(const Slice& slice) {
  std::vector<Run> out;
  add_runs(slice, 0, {slice.flat, 0, 0}, out);
  return out;
}

}  // namespace nereus
