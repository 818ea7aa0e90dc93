#include "model/mlp.h"

#include "model/linear.h"
#include "ops/swiglu.h"

namespace nereus {

void Mlp::forward(Context& ctx, const Weights& w, ConstTensorView x, TensorView y,
                  Saved& saved) const {
  const Arena::Scope scope(ctx.scratch);
  const int64_t F = w.down.dim(1);
  saved.x = tp_.enter(ctx, ctx.saved_weight, x);
  const int64_t T = saved.x.dim(0);
  Arena& act_arena = recompute_swiglu_ ? ctx.scratch : ctx.saved_weight;
  saved.gate_up = ctx.saved_input.take(x.dtype, {T, 2 * F}, "gate_up");
  saved.act = act_arena.take(x.dtype, {T, F}, "swiglu");
  linear_forward(ctx, saved.gate_up, saved.x, w.gate_up);
  ops::swiglu_forward(ctx.stream,
                      {.y = saved.act, .gate_up = saved.gate_up, .row_weight = {}, .rows = {}});
  if (!y) return;
  const TensorView partial = tp_.partial(ctx, y);
  linear_forward(ctx, partial, saved.act, w.down);
  tp_.leave(ctx, y, partial);
}

void Mlp::backward_input(Context& ctx, const Weights& w, ConstTensorView dy_shard, TensorView dx,
                         Saved& saved, Pending& pending) const {
  const int64_t T = saved.x.dim(0), F = w.down.dim(1);
  const ConstTensorView dy = tp_.leave_backward(ctx, ctx.saved_weight, dy_shard);
  if (recompute_swiglu_) {
    saved.act = ctx.saved_weight.take(dy.dtype, {T, F}, "swiglu");
    ops::swiglu_forward(ctx.stream,
                        {.y = saved.act, .gate_up = saved.gate_up, .row_weight = {}, .rows = {}});
  }
  pending.dy = dy;
  pending.dgate_up = ctx.saved_weight.take(dy.dtype, {T, 2 * F}, "dgate_up");
  const Arena::Scope scope(ctx.scratch);
  const TensorView dact = ctx.scratch.take(dy.dtype, {T, F}, "dswiglu");
  linear_dgrad(ctx, dact, dy, w.down);
  ops::swiglu_backward(ctx.stream, {.dgate_up = pending.dgate_up,
                                    .drow_weight = {},
                                    .dy = dact,
                                    .gate_up = saved.gate_up,
                                    .row_weight = {},
                                    .rows = {}});
  const TensorView partial = tp_.partial(ctx, dx);
  linear_dgrad(ctx, partial, pending.dgate_up, w.gate_up);
  tp_.enter_backward(ctx, dx, partial);
}

void Mlp::backward_weight(Context& ctx, const Saved& saved, const Pending& pending,
                          const Grads& grads) const {
  linear_wgrad(ctx, grads.down, pending.dy, saved.act);
  linear_wgrad(ctx, grads.gate_up, pending.dgate_up, saved.x);
}

}  // namespace nereus
