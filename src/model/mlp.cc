#include "model/mlp.h"

#include "model/linear.h"
#include "ops/swiglu.h"

namespace nereus {

void Mlp::gate_and_up(Context& ctx, Arena& arena, const Weights& w, Saved& s) const {
  s.gate_up = arena.take(s.x.dtype, {s.x.dim(0), 2 * w.down.dim(1)}, "gate_up");
  linear_forward(ctx, s.gate_up, s.x, w.gate_up);
}

void Mlp::gated_unit(Context& ctx, Arena& arena, Saved& s) const {
  s.act = arena.take(s.gate_up.dtype, {s.gate_up.dim(0), s.gate_up.dim(1) / 2}, "swiglu");
  ops::swiglu_forward(ctx.stream, {.y = s.act, .gate_up = s.gate_up});
}

// From dy to the gradient of gate_up.
void Mlp::gated_unit_backward(Context& ctx, TensorView dgate_up, ConstTensorView dy,
                              const Weights& w, const Saved& s) const {
  const Arena::Scope scope(ctx.scratch);
  const TensorView dact = ctx.scratch.take(dy.dtype, s.act.shape, "dswiglu");
  linear_dgrad(ctx, dact, dy, w.down);
  ops::swiglu_backward(ctx.stream, {.dgate_up = dgate_up, .dy = dact, .gate_up = s.gate_up});
}

void Mlp::forward(Context& ctx, const Weights& w, ConstTensorView x, TensorView y,
                  Saved& saved) const {
  const Arena::Scope scope(ctx.scratch);
  saved.x = tp_.enter(ctx, recompute_input_ ? ctx.scratch : ctx.saved_for_wgrad, x);
  gate_and_up(ctx, recompute_gate_up_ ? ctx.scratch : ctx.saved_for_dgrad, w, saved);
  if (!y && recompute_swiglu_) return;
  gated_unit(ctx, recompute_swiglu_ ? ctx.scratch : ctx.saved_for_wgrad, saved);
  if (!y) return;
  const TensorView partial = tp_.partial(ctx, y);
  linear_forward(ctx, partial, saved.act, w.down);
  tp_.leave(ctx, y, partial);
}

void Mlp::backward_input(Context& ctx, const Weights& w, ConstTensorView dy_shard, TensorView dx,
                         Saved& saved, Pending& pending) const {
  pending.dy = tp_.leave_backward(ctx, ctx.saved_for_wgrad, dy_shard);
  if (recompute_gate_up_) gate_and_up(ctx, ctx.saved_for_dgrad, w, saved);
  if (recompute_swiglu_) gated_unit(ctx, ctx.saved_for_wgrad, saved);
  pending.dgate_up = ctx.saved_for_wgrad.take(saved.gate_up.dtype, saved.gate_up.shape, "dgate_up");
  gated_unit_backward(ctx, pending.dgate_up, pending.dy, w, saved);
  const Arena::Scope scope(ctx.scratch);
  const TensorView partial = tp_.partial(ctx, dx);
  linear_dgrad(ctx, partial, pending.dgate_up, w.gate_up);
  tp_.enter_backward(ctx, dx, partial);
}

void Mlp::backward_weight(Context& ctx, const Saved& saved, const Pending& pending,
                          const Grads& grads) const {
  linear_wgrad(ctx, grads.down, pending.dy, saved.act);
  linear_wgrad(ctx, grads.gate_up, pending.dgate_up, saved.x);
}

void Mlp::backward(Context& ctx, const Weights& w, ConstTensorView dy_shard, TensorView dx,
                   Saved& saved, const Grads& grads) const {
  const Arena::Scope scope(ctx.scratch);
  const ConstTensorView dy = tp_.leave_backward(ctx, ctx.scratch, dy_shard);
  const TensorView partial = tp_.partial(ctx, dx);
  if (recompute_gate_up_) gate_and_up(ctx, ctx.scratch, w, saved);
  if (recompute_swiglu_) gated_unit(ctx, ctx.scratch, saved);
  linear_wgrad(ctx, grads.down, dy, saved.act);
  const TensorView dgate_up = saved.gate_up;
  gated_unit_backward(ctx, dgate_up, dy, w, saved);
  linear_wgrad(ctx, grads.gate_up, dgate_up, saved.x);
  linear_dgrad(ctx, partial, dgate_up, w.gate_up);
  tp_.enter_backward(ctx, dx, partial);
}

}  // namespace nereus
