#include "ops/permute.h"
#include "parallel/token_dispatcher.h"

namespace nereus {
namespace {

const TokenDispatcher::Plan::Sorted& sorted(const TokenDispatcher::Plan& plan) {
  return std::get<TokenDispatcher::Plan::Sorted>(plan.route);
}

}  // namespace

TokenDispatcher::Plan LocalDispatcher::plan(Context& ctx, Arena& arena, ConstTensorView ids) {
  const int64_t T = ids.dim(0), K = ids.dim(1);
  const Plan::Sorted slots{.row_of_slot = arena.take(DType::i32, {T, K}, "row_of_slot"),
                           .slot_of_row = arena.take(DType::i32, {T * K}, "slot_of_row")};
  Plan plan{.offsets = arena.take(DType::i32, {experts_ + 1}, "expert offsets"),
            .rows = T * K,
            .route = slots};
  ops::permute_plan(ctx.stream, {.row_of_slot = slots.row_of_slot,
                                 .slot_of_row = slots.slot_of_row,
                                 .offsets = plan.offsets,
                                 .ids = ids});
  return plan;
}

void LocalDispatcher::dispatch(Context& ctx, const Plan& plan, ConstTensorView x,
                               ConstTensorView weights, bool weigh, const Rows& rows) {
  ops::permute(ctx.stream, {.rows = rows.x,
                            .x = x,
                            .row_of_slot = sorted(plan).row_of_slot,
                            .weights = weigh ? weights : ConstTensorView()});
  ops::gather_scalars(ctx.stream,
                      {.out = rows.weights, .x = weights, .index = sorted(plan).slot_of_row});
}

void LocalDispatcher::combine(Context& ctx, const Plan& plan, ConstTensorView rows,
                              ConstTensorView addend, TensorView out) {
  ops::combine(
      ctx.stream,
      {.out = out, .rows = rows, .row_of_slot = sorted(plan).row_of_slot, .addend = addend});
}

void LocalDispatcher::combine_backward(Context& ctx, const Plan& plan, ConstTensorView dout,
                                       TensorView drows) {
  ops::permute(ctx.stream, {.rows = drows, .x = dout, .row_of_slot = sorted(plan).row_of_slot});
}

void LocalDispatcher::dispatch_backward(Context& ctx, const Plan& plan, const DispatchBackward& a) {
  ops::combine(ctx.stream, {.out = a.dx,
                            .rows = a.drows,
                            .row_of_slot = sorted(plan).row_of_slot,
                            .weights = a.weigh ? a.weights : ConstTensorView(),
                            .addend = a.addend});
  if (a.weigh) {
    ops::row_dot(
        ctx.stream,
        {.out = a.dweights, .rows = a.drows, .x = a.x, .row_of_slot = sorted(plan).row_of_slot});
  } else {
    ops::gather_scalars(
        ctx.stream, {.out = a.dweights, .x = a.drow_weights, .index = sorted(plan).row_of_slot});
  }
}

}  // namespace nereus
