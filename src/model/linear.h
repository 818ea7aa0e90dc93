// The three products of a linear layer y = x W^T, weights stored (out, in).
#pragma once

#include "ops/matmul.h"
#include "parallel/layer_context.h"

namespace nereus {

inline void linear_forward(Context& ctx, TensorView y, ConstTensorView x, ConstTensorView weight) {
  ops::matmul(ctx.stream, {.out = y, .a = x, .b = weight, .trans_b = true});
}

// dx = dy W, or dx += dy W
inline void linear_dgrad(Context& ctx, TensorView dx, ConstTensorView dy, ConstTensorView weight,
                         bool accumulate = false) {
  ops::matmul(ctx.stream, {.out = dx, .a = dy, .b = weight, .accumulate = accumulate});
}

// dW (+)= dy^T x
inline void linear_wgrad(Context& ctx, TensorView dweight, ConstTensorView dy, ConstTensorView x) {
  ops::matmul(ctx.stream,
              {.out = dweight, .a = dy, .b = x, .trans_a = true, .accumulate = ctx.accumulate});
}

}  // namespace nereus
