// Small element by element ops over contiguous tensors of n elements.
#pragma once

#include "ops/op.h"

namespace nereus::ops {

// out = value. f32, bf16, i32 or i64 (value converted).
struct Fill {
  TensorView out;
  double value = 0;
};

// out = x, converted (f32 and bf16, either way).
struct Cast {
  TensorView out;
  ConstTensorView x;
};

// out = a + b, in f32, rounded to out's type; out may alias either. All f32 or all bf16.
struct Add {
  TensorView out;
  ConstTensorView a, b;
};

// out[0] = scale * sum_i x[i]    (+ out[0] when accumulate). f32; in an order that depends on n
// only.
struct Sum {
  TensorView out;     // f32 [1]
  ConstTensorView x;  // f32
  float scale = 1;
  bool accumulate = false;
};

NEREUS_OP(fill, Fill)
NEREUS_OP(cast, Cast)
NEREUS_OP(add, Add)
NEREUS_OP(sum, Sum)

}  // namespace nereus::ops
