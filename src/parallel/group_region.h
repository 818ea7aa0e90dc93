// A tensor-parallel region over a group of ranks: sequence parallel outside, where each rank has
// T/tp of the rows, and all rows inside. Partial sums are added in the order of ranks.
// Rows may be strided (ranges of columns): they are packed on their way.
#pragma once

#include "comm/communicator.h"
#include "parallel/tp_region.h"

namespace nereus {

class GroupRegion final : public TpRegion {
 public:
  // `group` must outlive the region. Rank r of it has rows [r T/tp, (r + 1) T/tp).
  explicit GroupRegion(Communicator& group) : group_(group) {}

  int size() const override { return group_.size(); }
  int rank() const override { return group_.rank(); }
  ConstTensorView enter(Context&, Arena& arena, ConstTensorView x) override;
  ConstTensorView leave_backward(Context&, Arena& arena, ConstTensorView dy) override;
  TensorView partial(Context&, TensorView result) override;
  void leave(Context&, TensorView y, TensorView partial) override;
  void enter_backward(Context&, TensorView dx, TensorView partial) override;

 private:
  ConstTensorView gather(Context&, Arena& arena, ConstTensorView x);
  void scatter_sum(Context&, TensorView out, TensorView partial);

  Communicator& group_;
};

}  // namespace nereus
