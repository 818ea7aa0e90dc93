#include "model/moe.h"

#include "model/linear.h"
#include "ops/elementwise.h"
#include "ops/swiglu.h"

namespace nereus {
namespace {

ops::RoutingRule routing_rule(const ModelArgs& args) {
  const bool groups = args.numerics.expert_groups;
  return {.score = args.moe.score_func == ScoreFunction::sigmoid ? ops::RoutingRule::Score::sigmoid
                                                                 : ops::RoutingRule::Score::softmax,
          .normalize = args.moe.route_norm,
          .forced = args.moe.force_load_balance,
          .skew_percent = static_cast<int>(args.moe.skew_percent),
          .scale = static_cast<float>(args.moe.route_scale),
          .groups = groups ? static_cast<int>(args.n_expert_groups) : 1,
          .limited_groups = groups ? static_cast<int>(args.n_limited_groups) : 1};
}

}  // namespace

Moe::Moe(const ModelArgs& args, TokenDispatcher& dispatcher, TpRegion& tp, TpRegion& expert_tp,
         SideStream* exchange, const Recompute& recompute, int64_t layer)
    : dispatcher_(dispatcher),
      exchange_(exchange),
      expert_tp_(expert_tp),
      shared_(expert_tp.size() > 1 ? whole_ : tp, recompute),
      rule_(routing_rule(args)),
      experts_(args.moe.num_experts),
      top_k_(args.moe.top_k),
      layer_(layer),
      tp_rank_(tp.rank()),
      has_shared_(args.moe.num_shared_experts > 0),
      weigh_input_(args.moe.score_before_experts),
      f32_router_(args.numerics.f32_router),
      recompute_norms_(recompute.norms),
      recompute_swiglu_(recompute.swiglu),
      recompute_dispatch_(recompute.dispatch),
      recompute_gate_up_(recompute.gate_up) {}

void Moe::route(Context& ctx, const Weights& w, const ExpertLoad& balance, const Microbatch& mb,
                ConstTensorView x, Routing& routing) const {
  const int64_t T = x.dim(0);
  routing.weights = ctx.saved_for_wgrad.take(DType::f32, {T, top_k_}, "routing weights");
  routing.scores = ctx.saved_for_wgrad.take(DType::f32, {T, experts_}, "router scores");
  routing.ids = ctx.saved_for_wgrad.take(DType::i32, {T, top_k_}, "expert ids");
  const Arena::Scope scope(ctx.scratch);
  const TensorView logits =
      ctx.scratch.take(f32_router_ ? DType::f32 : x.dtype, {T, experts_}, "router logits");
  linear_forward(ctx, logits, x, w.gate);
  ops::router_forward(ctx.stream,
                      {.weights = routing.weights,
                       .ids = routing.ids,
                       .scores = routing.scores,
                       .load = mb.training ? balance.load : TensorView(),
                       .logits = logits,
                       .bias = balance.bias,
                       .rule = rule_,
                       .places = rule_.forced ? mb.places(tp_rank_ * T) : ops::TokenPlaces()});
  routing.all_ids = expert_tp_.enter(ctx, ctx.saved_for_wgrad, routing.ids);
  routing.all_weights = expert_tp_.enter(ctx, ctx.saved_for_wgrad, routing.weights);
  routing.plan = dispatcher_.plan(ctx, ctx.saved_for_wgrad, routing.all_ids);
  ctx.show("router.logits", layer_, logits);
  ctx.show("router.topk_ids", layer_, routing.ids);
  ctx.show("router.topk_weights", layer_, routing.weights);
}

ConstTensorView Moe::used_rows(const Saved& s) const {
  const int64_t experts = dispatcher_.local_experts();
  return s.routing.plan.offsets.rows(experts, experts + 1);
}

Context Moe::fork(Context& ctx) const {
  return {exchange_ == nullptr ? ctx.stream : exchange_->fork(ctx.stream),
          ctx.saved_for_dgrad,
          ctx.saved_for_wgrad,
          ctx.scratch,
          ctx.accumulate,
          ctx.observer};
}
void Moe::join(Context& ctx) const {
  if (exchange_ != nullptr) exchange_->join(ctx.stream);
}

void Moe::dispatch(Context& ctx, Arena& arena, Saved& s) const {
  s.rows.x = arena.take(s.x.dtype, {s.routing.plan.rows, s.x.dim(1)}, "expert rows");
  dispatcher_.dispatch(ctx, s.routing.plan, s.x, s.routing.all_weights, weigh_input_, s.rows);
}

void Moe::gate_and_up(Context& ctx, const Weights& w, Saved& s) const {
  experts_forward(ctx, s.gate_up, s.rows.x, w.gate_up, s.routing.plan.offsets);
}

void Moe::gated_unit(Context& ctx, Arena& arena, Saved& s) const {
  s.act = arena.take(s.gate_up.dtype, {s.gate_up.dim(0), s.gate_up.dim(1) / 2}, "expert swiglu");
  ops::swiglu_forward(ctx.stream, {.y = s.act,
                                   .gate_up = s.gate_up,
                                   .row_weight = weigh_input_ ? ConstTensorView() : s.rows.weights,
                                   .rows = used_rows(s)});
}

void Moe::restore_input(Context& ctx, ConstTensorView x_shard, Saved& s) const {
  s.x_shard = x_shard;
  s.x = expert_tp_.enter(ctx, ctx.saved_for_wgrad, x_shard);
  shared_.restore_input(ctx, s.x, s.shared);
}

void Moe::forward(Context& ctx, const Weights& w, ConstTensorView x_shard, TensorView y,
                  Saved& s) const {
  const Arena::Scope scope(ctx.scratch);
  const int64_t R = s.routing.plan.rows, D = w.down.dim(1), F = w.down.dim(2);
  const ConstTensorView offsets = s.routing.plan.offsets;
  s.x_shard = x_shard;
  s.x = expert_tp_.enter(ctx, recompute_norms_ ? ctx.scratch : ctx.saved_for_wgrad, x_shard);
  s.rows.weights = ctx.saved_for_dgrad.take(DType::f32, {R}, "row weights");
  s.gate_up = (recompute_gate_up_ ? ctx.scratch : ctx.saved_for_dgrad)
                  .take(s.x.dtype, {R, 2 * F}, "expert gate_up");

  const TensorView partial = y ? expert_tp_.partial(ctx, y) : TensorView();
  {
    const Arena::Scope rows(ctx.scratch);
    Context side = fork(ctx);
    dispatch(side, recompute_dispatch_ ? ctx.scratch : ctx.saved_for_wgrad, s);
    if (has_shared_) shared_.forward(ctx, w.shared, s.x, partial, s.shared);
    join(ctx);
    gate_and_up(ctx, w, s);
  }
  if (!y && recompute_swiglu_) return;
  gated_unit(ctx, recompute_swiglu_ ? ctx.scratch : ctx.saved_for_wgrad, s);
  if (!y) return;
  const TensorView out = ctx.scratch.take(s.x.dtype, {R, D}, "expert out");
  experts_forward(ctx, out, s.act, w.down, offsets);
  dispatcher_.combine(ctx, s.routing.plan, out, has_shared_ ? partial : ConstTensorView(), partial);
  expert_tp_.leave(ctx, y, partial);
}

void Moe::gated_unit_backward(Context& ctx, TensorView dgate_up, TensorView drow_weights,
                              ConstTensorView dout, const Weights& w, const Saved& s) const {
  const Arena::Scope scope(ctx.scratch);
  const TensorView dact = ctx.scratch.take(dout.dtype, s.act.shape, "dexpert swiglu");
  experts_dgrad(ctx, dact, dout, w.down, s.routing.plan.offsets);
  ops::swiglu_backward(ctx.stream, {.dgate_up = dgate_up,
                                    .drow_weight = drow_weights,
                                    .dy = dact,
                                    .gate_up = s.gate_up,
                                    .row_weight = weigh_input_ ? ConstTensorView() : s.rows.weights,
                                    .rows = used_rows(s)});
}

void Moe::dispatch_backward(Context& ctx, ConstTensorView dgate_up, ConstTensorView drow_weights,
                            ConstTensorView dshared, const Weights& w, const Saved& s,
                            TensorView dx, TensorView dlogits,
                            FunctionRef<void()> meanwhile) const {
  const Arena::Scope scope(ctx.scratch);
  const TensorView dweights =
      ctx.scratch.take(DType::f32, s.routing.weights.shape, "drouting weights");
  const TensorView dx_partial = expert_tp_.partial(ctx, dx);
  const TensorView dweights_partial = expert_tp_.partial(ctx, dweights);
  const TensorView drows =
      ctx.scratch.take(dx.dtype, {s.routing.plan.rows, w.down.dim(1)}, "dexpert rows");
  experts_dgrad(ctx, drows, dgate_up, w.gate_up, s.routing.plan.offsets);
  Context side = fork(ctx);
  dispatcher_.dispatch_backward(side, s.routing.plan,
                                {.dx = dx_partial,
                                 .dweights = dweights_partial,
                                 .drows = drows,
                                 .drow_weights = drow_weights,
                                 .x = s.x,
                                 .weights = s.routing.all_weights,
                                 .addend = dshared,
                                 .weigh = weigh_input_});
  meanwhile();
  join(ctx);
  expert_tp_.enter_backward(ctx, dx, dx_partial);
  expert_tp_.enter_backward(ctx, dweights, dweights_partial);
  ops::router_backward(ctx.stream, {.dlogits = dlogits,
                                    .dweights = dweights,
                                    .ids = s.routing.ids,
                                    .scores = s.routing.scores,
                                    .rule = rule_});
  linear_dgrad(ctx, dx, dlogits, w.gate, /*accumulate=*/true);
}

void Moe::backward_input(Context& ctx, const Weights& w, ConstTensorView dy_shard, TensorView dx,
                         Saved& s, Pending& pending) const {
  const int64_t R = s.routing.plan.rows, T = s.x.dim(0), D = w.down.dim(1);
  const DType dtype = dy_shard.dtype;
  const ConstTensorView dy = expert_tp_.leave_backward(ctx, ctx.saved_for_wgrad, dy_shard);
  if (recompute_dispatch_) dispatch(ctx, ctx.saved_for_wgrad, s);
  if (recompute_gate_up_) {
    s.gate_up = ctx.saved_for_dgrad.take(dtype, s.gate_up.shape, "expert gate_up");
    gate_and_up(ctx, w, s);
  }
  if (recompute_swiglu_) gated_unit(ctx, ctx.saved_for_wgrad, s);
  pending.dout = ctx.saved_for_wgrad.take(dtype, {R, D}, "dexpert out");
  pending.dgate_up = ctx.saved_for_wgrad.take(dtype, s.gate_up.shape, "dexpert gate_up");
  pending.dlogits = ctx.saved_for_wgrad.take(f32_router_ ? DType::f32 : dtype,
                                             {s.x_shard.dim(0), experts_}, "drouter logits");

  const Arena::Scope scope(ctx.scratch);
  const TensorView dshared =
      has_shared_ ? ctx.scratch.take(dtype, {T, D}, "dshared") : TensorView();
  const TensorView drow_weights =
      weigh_input_ ? TensorView() : ctx.scratch.take(DType::f32, {R}, "drow weights");
  Context side = fork(ctx);
  dispatcher_.combine_backward(side, s.routing.plan, dy, pending.dout);
  if (has_shared_) shared_.backward_input(ctx, w.shared, dy, dshared, s.shared, pending.shared);
  join(ctx);
  gated_unit_backward(ctx, pending.dgate_up, drow_weights, pending.dout, w, s);
  dispatch_backward(ctx, pending.dgate_up, drow_weights, dshared, w, s, dx, pending.dlogits, [] {});
}

void Moe::backward_weight(Context& ctx, const Saved& s, const Pending& pending,
                          const Grads& grads) const {
  const ConstTensorView offsets = s.routing.plan.offsets;
  experts_wgrad(ctx, grads.down, pending.dout, s.act, offsets);
  experts_wgrad(ctx, grads.gate_up, pending.dgate_up, s.rows.x, offsets);
  linear_wgrad(ctx, grads.gate, pending.dlogits, s.x_shard);
  if (has_shared_) shared_.backward_weight(ctx, s.shared, pending.shared, grads.shared);
}

void Moe::backward(Context& ctx, const Weights& w, ConstTensorView dy_shard, TensorView dx,
                   Saved& s, const Grads& grads) const {
  const int64_t R = s.routing.plan.rows, T = s.x.dim(0), D = w.down.dim(1);
  const DType dtype = dy_shard.dtype;
  const ConstTensorView offsets = s.routing.plan.offsets;
  const Arena::Scope scope(ctx.scratch);
  const ConstTensorView dy = expert_tp_.leave_backward(ctx, ctx.scratch, dy_shard);
  const TensorView dshared =
      has_shared_ ? ctx.scratch.take(dtype, {T, D}, "dshared") : TensorView();
  const TensorView dlogits = ctx.scratch.take(f32_router_ ? DType::f32 : dtype,
                                              {s.x_shard.dim(0), experts_}, "drouter logits");
  const TensorView drow_weights =
      weigh_input_ ? TensorView() : ctx.scratch.take(DType::f32, {R}, "drow weights");

  // Rows that gate_up is made from again stay for its wgrad.
  const bool rows_for_wgrad = recompute_dispatch_ && !recompute_gate_up_;
  if (recompute_gate_up_) {
    if (recompute_dispatch_) dispatch(ctx, ctx.scratch, s);
    s.gate_up = ctx.scratch.take(dtype, s.gate_up.shape, "expert gate_up");
    gate_and_up(ctx, w, s);
  }
  const TensorView dgate_up = s.gate_up;
  {
    const Arena::Scope down(ctx.scratch);
    if (recompute_swiglu_) gated_unit(ctx, ctx.scratch, s);
    const TensorView dout = ctx.scratch.take(dtype, {R, D}, "dexpert out");
    Context side = fork(ctx);
    dispatcher_.combine_backward(side, s.routing.plan, dy, dout);
    if (has_shared_) shared_.backward(ctx, w.shared, dy, dshared, s.shared, grads.shared);
    join(ctx);
    experts_wgrad(ctx, grads.down, dout, s.act, offsets);
    gated_unit_backward(ctx, dgate_up, drow_weights, dout, w, s);
  }
  const auto wgrad = [&] { experts_wgrad(ctx, grads.gate_up, dgate_up, s.rows.x, offsets); };
  if (rows_for_wgrad) {  // made again, and given back before others travel
    const Arena::Scope up(ctx.scratch);
    dispatch(ctx, ctx.scratch, s);
    wgrad();
  }
  dispatch_backward(ctx, dgate_up, drow_weights, dshared, w, s, dx, dlogits, [&] {
    if (!rows_for_wgrad) wgrad();
  });
  linear_wgrad(ctx, grads.gate, dlogits, s.x_shard);
}

}  // namespace nereus
