// A weight as kernels read it: elements in some format (StoredTensor::read_format) and, for a
// format that has them, the scales that make numbers of elements. f32 and bf16 have none. Layers
// hand it on as one, and only what computes with it looks inside.
#pragma once

#include <type_traits>

#include "tensor/tensor.h"

namespace nereus {

struct Weight {
  ConstTensorView view;    // (out, in), experts first; "no tensor": the model has no such weight
  ConstTensorView scales;  // "no tensor": elements are the numbers

  Weight() = default;
  // Elements that are the numbers, as a view or what is one.
  template <class View>
  requires(std::is_convertible_v<const View&, ConstTensorView>)
      Weight(const View& numbers)  // NOLINT(google-explicit-constructor)
      : view(numbers) {}

  explicit operator bool() const { return static_cast<bool>(view); }  // is there a tensor?
  int64_t dim(int i) const { return view.dim(i); }
};

}  // namespace nereus
