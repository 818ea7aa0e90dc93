// The border of a tensor-parallel region, in conjugate pairs: what goes in by a gather goes back by
// a sum and scatter, and the reverse. A layer calls both and never asks how many ranks there are.
//
//   enter:  [T/tp, D] -> [T, D]              enter_backward:  [T, D] partial sums -> [T/tp, D]
//   leave:  [T, D] partial -> [T/tp, D]      leave_backward:  [T/tp, D] -> [T, D]
//
// In a region of one rank a gather hands its argument back, a partial sum is made where the result
// belongs, and nothing is copied.
#pragma once

#include "parallel/layer_context.h"

namespace nereus {

class TpRegion {
 public:
  virtual ~TpRegion() = default;
  virtual int size() const = 0;
  virtual int rank() const = 0;

  // `arena`: where the gathered rows are taken, if they are not the argument.
  virtual ConstTensorView enter(Context&, Arena& arena, ConstTensorView x) = 0;
  virtual ConstTensorView leave_backward(Context&, Arena& arena, ConstTensorView dy) = 0;

  // Where to make the partial sums of `result` ([T/tp, D]): [T, D], in ctx.scratch or result
  // itself.
  virtual TensorView partial(Context&, TensorView result) = 0;
  virtual void leave(Context&, TensorView y, TensorView partial) = 0;
  virtual void enter_backward(Context&, TensorView dx, TensorView partial) = 0;
};

// One rank.
class IdentityRegion final : public TpRegion {
 public:
  int size() const override { return 1; }
  int rank() const override { return 0; }
  ConstTensorView enter(Context&, Arena&, ConstTensorView x) override { return x; }
  ConstTensorView leave_backward(Context&, Arena&, ConstTensorView dy) override { return dy; }
  TensorView partial(Context&, TensorView result) override { return result; }
  void leave(Context&, TensorView, TensorView) override {}
  void enter_backward(Context&, TensorView, TensorView) override {}
};

}  // namespace nereus
