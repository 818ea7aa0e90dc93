// Views of tensors: where the elements are, their type, shape and strides. Non-owning, trivially
// copyable, passed by value. The last dim is always contiguous; every other dim has its stride, so
// that rows, ranges of columns and the heads of a wider row are views, and nothing is copied to
// suit a layout.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "tensor/dtype.h"

namespace nereus {

// Up to four dims, the slowest first. Rank 0 is "no tensor".
class Shape {
 public:
  static constexpr int kMaxRank = 4;

  constexpr Shape() = default;
  constexpr Shape(std::initializer_list<int64_t> dims) {
    for (const int64_t d : dims) {
      if (rank_ < kMaxRank) dims_[static_cast<size_t>(rank_++)] = d;
    }
  }
  constexpr int rank() const { return rank_; }
  constexpr int64_t operator[](int i) const { return dims_[static_cast<size_t>(i)]; }
  constexpr int64_t& operator[](int i) { return dims_[static_cast<size_t>(i)]; }
  constexpr int64_t count() const {
    int64_t n = rank_ > 0 ? 1 : 0;
    for (int i = 0; i < rank_; ++i) n *= dims_[static_cast<size_t>(i)];
    return n;
  }
  constexpr bool operator==(const Shape& o) const {
    if (rank_ != o.rank_) return false;
    for (int i = 0; i < rank_; ++i)
      if ((*this)[i] != o[i]) return false;
    return true;
  }
  std::string to_string() const;  // [4, 8]

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

template <class Pointer>  // std::byte* or const std::byte*
struct BasicView {
  Pointer data = nullptr;
  DType dtype = DType::f32;
  Shape shape;
  std::array<int64_t, Shape::kMaxRank> stride{};  // in elements; the last one is 1

  BasicView() = default;
  BasicView(Pointer p, DType t, const Shape& s) : data(p), dtype(t), shape(s) {
    int64_t step = 1;
    for (int i = s.rank() - 1; i >= 0; --i) {
      stride[static_cast<size_t>(i)] = step;
      step *= s[i];
    }
  }
  // A mutable view serves where a constant one is asked for.
  template <class Other>
  requires(!std::is_same_v<Other, Pointer> && std::is_convertible_v<Other, Pointer>)
      BasicView(const BasicView<Other>& o)  // NOLINT(google-explicit-constructor)
      : data(o.data), dtype(o.dtype), shape(o.shape), stride(o.stride) {}

  explicit operator bool() const { return shape.rank() > 0; }  // is there a tensor?
  int rank() const { return shape.rank(); }
  int64_t dim(int i) const { return shape[i]; }
  int64_t count() const { return shape.count(); }
  int64_t bytes() const { return count() * size_of(dtype); }  // of the elements, without gaps
  int64_t row_stride() const { return stride[0]; }
  bool contiguous() const {
    int64_t step = 1;
    for (int i = rank() - 1; i >= 0; --i) {
      if (shape[i] != 1 && stride[static_cast<size_t>(i)] != step) return false;
      step *= shape[i];
    }
    return true;
  }

  // The elements as E, whose size must be the dtype's (not checked: ops check dtypes).
  template <class E>
  auto as() const {
    if constexpr (std::is_const_v<std::remove_pointer_t<Pointer>>) {
      return reinterpret_cast<const E*>(data);
    } else {
      return reinterpret_cast<E*>(data);
    }
  }

  // Indices [begin, end) of dim `dim`. On a view without memory (meta device) too.
  BasicView slice(int dim, int64_t begin, int64_t end) const {
    BasicView v = *this;
    v.shape[dim] = end - begin;
    if (data != nullptr) v.data = data + begin * stride[static_cast<size_t>(dim)] * size_of(dtype);
    return v;
  }
  BasicView rows(int64_t begin, int64_t end) const { return slice(0, begin, end); }
  BasicView columns(int64_t begin, int64_t end) const { return slice(rank() - 1, begin, end); }
  // Index `i` of the first dim, that dim dropped.
  BasicView operator[](int64_t i) const {
    BasicView v = slice(0, i, i + 1);
    BasicView out;
    out.data = v.data;
    out.dtype = dtype;
    if (rank() == 1) {
      out.shape = {1};
      out.stride[0] = 1;
      return out;
    }
    out.shape = rank() == 2   ? Shape{shape[1]}
                : rank() == 3 ? Shape{shape[1], shape[2]}
                              : Shape{shape[1], shape[2], shape[3]};
    for (int d = 1; d < rank(); ++d)
      out.stride[static_cast<size_t>(d - 1)] = stride[static_cast<size_t>(d)];
    return out;
  }
  // Another shape over the same contiguous elements.
  BasicView reshape(const Shape& s) const { return BasicView(data, dtype, s); }
  // Splits the last dim of [T, A*B] in two: [T, A, B]; rows may be strided.
  BasicView split_last(int64_t a, int64_t b) const {
    BasicView v(data, dtype, Shape{shape[0], a, b});
    v.stride = {stride[0], b, 1, 0};
    return v;
  }
  std::string to_string() const;  // "f32 [4, 8]"
};

using TensorView = BasicView<std::byte*>;
using ConstTensorView = BasicView<const std::byte*>;

extern template struct BasicView<std::byte*>;
extern template struct BasicView<const std::byte*>;

}  // namespace nereus
