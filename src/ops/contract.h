// Helpers for the check() of ops. For .cc files only.
#pragma once

#include "base/check.h"
#include "tensor/format.h"

namespace nereus::ops {

// "rmsnorm_forward: weight is f32 [16], expected f32 [8]"
template <class Pointer>
void expect(const char* op, const char* what, const BasicView<Pointer>& view, DType dtype,
            const Shape& shape) {
  NEREUS_CHECK(kContract, view.dtype == dtype && view.shape == shape,
               "{}: {} is {}, expected {} {}", op, what, view, dtype, shape);
  NEREUS_CHECK(kContract,
               shape.rank() == 0 || view.stride[static_cast<size_t>(shape.rank() - 1)] == 1,
               "{}: the last dim of {} {} is not contiguous", op, what, view);
}

template <class Pointer>
void expect_contiguous(const char* op, const char* what, const BasicView<Pointer>& view) {
  NEREUS_CHECK(kContract, view.contiguous(), "{}: {} {} is not contiguous", op, what, view);
}

// Activations: f32 or bf16.
template <class Pointer>
void expect_float(const char* op, const char* what, const BasicView<Pointer>& view) {
  NEREUS_CHECK(kContract, view.dtype == DType::f32 || view.dtype == DType::bf16,
               "{}: {} is {}, expected f32 or bf16", op, what, view);
}

template <class Pointer>
void expect_rank(const char* op, const char* what, const BasicView<Pointer>& view, int rank) {
  NEREUS_CHECK(kContract, view.rank() == rank, "{}: {} is {}, expected {} dims", op, what, view,
               rank);
}

inline bool given(const ConstTensorView& view) { return static_cast<bool>(view); }

}  // namespace nereus::ops
