// The three GEMMs of a linear layer y = x W^T, whose weight is stored (out, in), and of experts
// that have one each, [E, out, in]: rows [offsets[e], offsets[e + 1]) of x and y are expert e's.
//
// x [T, in], y [T, out], gradients as what they are of. dweight is f32 and written, or added to
// with ctx.accumulate. offsets i32 [E + 1].
#pragma once

#include "device/device.h"
#include "ops/grouped_matmul.h"
#include "ops/matmul.h"
#include "parallel/layer_context.h"
#include "parallel/weight.h"

namespace nereus {

inline void linear_forward(Context& ctx, TensorView y, ConstTensorView x, const Weight& weight) {
  ops::matmul(ctx.stream, {.out = y, .a = x, .b = weight.view, .trans_b = true});
}

// dx = dy W, or dx += dy W
inline void linear_dgrad(Context& ctx, TensorView dx, ConstTensorView dy, const Weight& weight,
                         bool accumulate = false) {
  ops::matmul(ctx.stream, {.out = dx, .a = dy, .b = weight.view, .accumulate = accumulate});
}

// dW (+)= dy^T x
inline void linear_wgrad(Context& ctx, TensorView dweight, ConstTensorView dy, ConstTensorView x) {
  ops::matmul(ctx.stream,
              {.out = dweight, .a = dy, .b = x, .trans_a = true, .accumulate = ctx.accumulate});
}

inline void experts_forward(Context& ctx, TensorView y, ConstTensorView x, const Weight& weight,
                            ConstTensorView offsets) {
  ops::grouped_matmul(ctx.stream,
                      {.out = y, .a = x, .b = weight.view, .offsets = offsets, .trans_b = true});
}

inline void experts_dgrad(Context& ctx, TensorView dx, ConstTensorView dy, const Weight& weight,
                          ConstTensorView offsets) {
  ops::grouped_matmul(ctx.stream, {.out = dx, .a = dy, .b = weight.view, .offsets = offsets});
}

inline void experts_wgrad(Context& ctx, TensorView dweight, ConstTensorView dy, ConstTensorView x,
                          ConstTensorView offsets) {
  ops::grouped_wgrad(
      ctx.stream,
      {.out = dweight, .dy = dy, .x = x, .offsets = offsets, .accumulate = ctx.accumulate});
}

}  // namespace nereus
