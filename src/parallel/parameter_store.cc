#include "parallel/parameter_store.h"

#include "base/check.h"
#include "base/philox.h"
#include "ops/elementwise.h"
#include "ops/init.h"
#include "tensor/format.h"

namespace nereus {
namespace {

constexpr int64_t kAlignment = Arena::kAlignment / 2;  // elements: a bf16 tensor starts aligned too

// The contiguous pieces of a parameter inside its stored tensor, with the index of their first
// element in the parameter: one piece, or one an expert when w1 and w3 alternate.
struct Piece {
  TensorView view;
  int64_t first;
};

std::vector<Piece> pieces(const TensorView& part) {
  if (part.contiguous()) return {{part.reshape({part.count()}), 0}};
  std::vector<Piece> out;
  const int64_t step = part.count() / part.dim(0);
  for (int64_t i = 0; i < part.dim(0); ++i) {
    const TensorView row = part[i];
    NEREUS_CHECK(kContract, row.contiguous(), "parameter part {} is cut on its last dims", part);
    out.push_back({row.reshape({step}), i * step});
  }
  return out;
}

}  // namespace

ParameterStore::ParameterStore(Device device, std::vector<StoredTensor> tensors, Options options)
    : tensors_(std::move(tensors)), options_(options) {
  for (const StoredTensor& t : tensors_) {
    offsets_.push_back(elements_);
    elements_ += (t.shape.count() + kAlignment - 1) / kAlignment * kAlignment;
  }
  masters_ = Buffer(device, 4 * elements_, "parameters (f32 masters)");
  if (options.gradients) gradients_ = Buffer(device, 4 * elements_, "gradients (f32)");
  if (options.moments) {
    m_ = Buffer(device, 4 * elements_, "optimizer (first moments)");
    v_ = Buffer(device, 4 * elements_, "optimizer (second moments)");
  }
  if (options.compute != DType::f32) copies_ = Buffer(device, 2 * elements_, "parameters (bf16)");
}

TensorView ParameterStore::flat(const Buffer& buffer, DType dtype) const {
  if (buffer.bytes() == 0) return {};
  return TensorView(buffer.data(), dtype, {elements_});
}

TensorView ParameterStore::copies() const { return flat(copies_, DType::bf16); }

TensorView ParameterStore::at(const Buffer& buffer, DType dtype, TensorHandle handle) const {
  if (handle < 0) return {};
  const auto i = static_cast<size_t>(handle);
  std::byte* data =
      buffer.data() == nullptr ? nullptr : buffer.data() + offsets_[i] * size_of(dtype);
  return TensorView(data, dtype, tensors_[i].shape);
}

ConstTensorView ParameterStore::weight(TensorHandle handle) const {
  if (handle < 0) return {};
  const bool copy =
      options_.compute != DType::f32 && !tensors_[static_cast<size_t>(handle)].full_precision;
  return copy ? at(copies_, DType::bf16, handle) : at(masters_, DType::f32, handle);
}

TensorView ParameterStore::gradient(TensorHandle handle) const {
  return at(gradients_, DType::f32, handle);
}

TensorView ParameterStore::master(TensorHandle handle) const {
  return at(masters_, DType::f32, handle);
}

std::vector<NamedView> ParameterStore::views(const Buffer& buffer) const {
  std::vector<NamedView> out;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const TensorView whole = at(buffer, DType::f32, static_cast<TensorHandle>(i));
    for (const ParameterPart& part : tensors_[i].parts) {
      const int64_t end = part.begin + part.parameter.shape[part.dim];
      out.push_back({part.parameter.name, whole.slice(part.dim, part.begin, end)});
    }
  }
  return out;
}

std::vector<NamedView> ParameterStore::master_views() const { return views(masters_); }
std::vector<NamedView> ParameterStore::gradient_views() const { return views(gradients_); }

void ParameterStore::initialize(Stream& stream, uint64_t seed) {
  size_t i = 0;
  const std::vector<NamedView> all = master_views();
  for (const StoredTensor& t : tensors_) {
    for (const ParameterPart& part : t.parts) {
      const Initial& initial = part.parameter.initial;
      for (const Piece& piece : pieces(all[i].view)) {
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
      ++i;
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
          .gradients = gradients_.bytes(),
          .moments = m_.bytes() + v_.bytes(),
          .copies = copies_.bytes()};
}

}  // namespace nereus
