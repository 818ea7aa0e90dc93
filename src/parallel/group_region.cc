#include "parallel/group_region.h"

namespace nereus {

ConstTensorView GroupRegion::gather(Context& ctx, Arena& arena, ConstTensorView x) {
  const TensorView all = arena.take(x.dtype, {x.dim(0) * size(), x.dim(1)}, "gathered rows");
  // Packed where it will be gathered: a rank's rows are its own block of the result.
  ConstTensorView mine = x;
  if (!x.contiguous()) {
    const TensorView block = all.rows(group_.rank() * x.dim(0), (group_.rank() + 1) * x.dim(0));
    copy_rows(ctx.stream, block, x);
    mine = block;
  }
  group_.all_gather(ctx.stream, all, mine);
  return all;
}

void GroupRegion::scatter_sum(Context& ctx, TensorView out, TensorView partial) {
  if (out.contiguous()) {
    group_.reduce_scatter(ctx.stream, out, partial);
    return;
  }
  // The sum goes to this rank's own block of the partial sums, which nobody needs any more.
  const int64_t rows = out.dim(0);
  const TensorView block = partial.rows(group_.rank() * rows, (group_.rank() + 1) * rows);
  group_.reduce_scatter(ctx.stream, block, partial);
  copy_rows(ctx.stream, out, block);
}

ConstTensorView GroupRegion::enter(Context& ctx, Arena& arena, ConstTensorView x) {
  return gather(ctx, arena, x);
}
ConstTensorView GroupRegion::leave_backward(Context& ctx, Arena& arena, ConstTensorView dy) {
  return gather(ctx, arena, dy);
}
TensorView GroupRegion::partial(Context& ctx, TensorView result) {
  return ctx.scratch.take(result.dtype, {result.dim(0) * size(), result.dim(1)}, "partial sums");
}
void GroupRegion::leave(Context& ctx, TensorView y, TensorView partial) {
  scatter_sum(ctx, y, partial);
}
void GroupRegion::enter_backward(Context& ctx, TensorView dx, TensorView partial) {
  scatter_sum(ctx, dx, partial);
}

}  // namespace nereus
