#include "model/block.h"

#include "ops/elementwise.h"
#include "ops/rmsnorm.h"

namespace nereus {

Block::Block(const ModelArgs& args, int64_t layer, const RopeTables& rope, LayerParallel parallel,
             Recompute recompute)
    : layer_(layer),
      eps_(static_cast<float>(args.norm_eps)),
      round_normalized_(args.numerics.round_normalized),
      recompute_(recompute),
      attention_(args, rope, parallel.tp, parallel.keys, recompute, parallel.attention),
      mlp_(parallel.tp, recompute) {
  if (args.is_moe_layer(layer))
    moe_ = std::make_unique<Moe>(args, parallel.dispatcher, parallel.tp, parallel.expert_tp,
                                 parallel.exchange, recompute, layer);
}

void Block::normalise(Context& ctx, TensorView y, TensorView rstd, ConstTensorView x,
                      ConstTensorView weight) const {
  ops::rmsnorm_forward(ctx.stream, {.y = y,
                                    .rstd = rstd,
                                    .x = x,
                                    .weight = weight,
                                    .eps = eps_,
                                    .round_normalized = round_normalized_});
}

// From x to h and n2.
void Block::attend(Context& ctx, const Weights& w, const Microbatch& mb, Saved& s, Context& kept,
                   bool attended) const {
  const Shape shape = s.x.shape;
  const DType dtype = s.x.dtype;
  Arena& norms = recompute_.norms ? ctx.scratch : ctx.saved_for_wgrad;
  s.rstd1 = ctx.saved_for_dgrad.take(DType::f32, {shape[0]}, "attention rstd");
  s.rstd2 = ctx.saved_for_dgrad.take(DType::f32, {shape[0]}, "ffn rstd");
  s.h = ctx.saved_for_dgrad.take(dtype, shape, "residual");
  s.n1 = norms.take(dtype, shape, "attention norm");
  s.n2 = norms.take(dtype, shape, "ffn norm");
  normalise(ctx, s.n1, s.rstd1, s.x, w.attention_norm.view);

  const Arena::Scope scope(ctx.scratch);
  const TensorView a = ctx.scratch.take(dtype, shape, "attention y");
  attention_.forward(ctx, w.attention, mb, s.n1, a, s.attention, kept, attended);
  ctx.show("attn_out", layer_, a);
  ops::rmsnorm_forward(ctx.stream, {.y = s.n2,
                                    .rstd = s.rstd2,
                                    .sum = s.h,
                                    .x = s.x,
                                    .addend = a,
                                    .weight = w.ffn_norm.view,
                                    .eps = eps_,
                                    .round_normalized = round_normalized_});
}

void Block::feed_forward(Context& ctx, const Weights& w, TensorView f, Saved& s) const {
  s.ffn_input = ctx.saved_for_dgrad.here();
  s.ffn_weight = ctx.saved_for_wgrad.here();
  if (moe_) {
    moe_->forward(ctx, w.moe, s.n2, f, s.moe);
  } else {
    mlp_.forward(ctx, w.mlp, s.n2, f, s.mlp);
  }
}

void Block::forward(Context& ctx, const Weights& w, const Microbatch& mb, const ExpertLoad& load,
                    ConstTensorView x, TensorView y, Saved& s) const {
  const Arena::Scope scope(ctx.scratch);
  s.x = x;
  // With Recompute::block what a layer saves lives in the scratch, for this call only.
  Context brief{ctx.stream, ctx.scratch, ctx.scratch, ctx.scratch, ctx.accumulate, ctx.observer};
  Context& inner = recompute_.block ? brief : ctx;
  attend(inner, w, mb, s, recompute_.kept_attention ? ctx : inner, false);
  if (moe_) moe_->route(ctx, w.moe, load, mb, s.n2, s.moe.routing);
  const TensorView f = ctx.scratch.take(x.dtype, x.shape, "ffn y");
  feed_forward(inner, w, f, s);
  ctx.show("mlp_out", layer_, f);
  ops::add(ctx.stream, {.out = y, .a = s.h, .b = f});
  ctx.show("hidden", layer_, y);
}

void Block::restore_attention(Context& ctx, const Weights& w, const Microbatch& mb,
                              Saved& s) const {
  if (!recompute_.block) return;
  Context replay = ctx;
  replay.observer = nullptr;
  attend(replay, w, mb, s, replay, recompute_.kept_attention);
}

void Block::restore_feed_forward(Context& ctx, const Weights& w, Saved& s) const {
  if (recompute_.block) {
    Context replay = ctx;
    replay.observer = nullptr;
    feed_forward(replay, w, {}, s);
  } else if (recompute_.norms) {
    s.n2 = ctx.saved_for_wgrad.take(s.h.dtype, s.h.shape, "ffn norm");
    normalise(ctx, s.n2, s.rstd2, s.h, w.ffn_norm.view);
    if (moe_) {
      moe_->restore_input(ctx, s.n2, s.moe);
    } else {
      mlp_.restore_input(ctx, s.n2, s.mlp);
    }
  }
}

void Block::restore_attention_norm(Context& ctx, const Weights& w, Saved& s) const {
  if (recompute_.block || !recompute_.norms) return;
  s.n1 = ctx.saved_for_wgrad.take(s.x.dtype, s.x.shape, "attention norm");
  normalise(ctx, s.n1, s.rstd1, s.x, w.attention_norm.view);
  s.attention.x = s.n1;
}

// dh from the gradient of the feed-forward layer's input.
void Block::feed_forward_norm_backward(Context& ctx, const Weights& w, TensorView dh,
                                       ConstTensorView dn, ConstTensorView dy, const Saved& s,
                                       const Grads& grads) const {
  ops::rmsnorm_backward(ctx.stream, {.dx = dh,
                                     .dweight = grads.ffn_norm,
                                     .dy = dn,
                                     .x = s.h,
                                     .residual = dy,
                                     .weight = w.ffn_norm.view,
                                     .rstd = s.rstd2,
                                     .accumulate = ctx.accumulate});
}

// From dh to dx.
void Block::attention_dgrad(Context& ctx, const Weights& w, const Microbatch& mb, TensorView dh,
                            TensorView dx, Saved& s, Pending& pending, const Grads& grads) const {
  const Arena::Scope scope(ctx.scratch);
  const TensorView dn = ctx.scratch.take(dh.dtype, dh.shape, "dnorm");
  attention_.backward_input(ctx, w.attention, mb, dh, dn, s.attention, pending.attention,
                            grads.attention);
  ops::rmsnorm_backward(ctx.stream, {.dx = dx,
                                     .dweight = grads.attention_norm,
                                     .dy = dn,
                                     .x = s.x,
                                     .residual = dh,
                                     .weight = w.attention_norm.view,
                                     .rstd = s.rstd1,
                                     .accumulate = ctx.accumulate});
}

void Block::backward_input(Context& ctx, const Weights& w, const Microbatch& mb, ConstTensorView dy,
                           TensorView dx, Saved& s, Pending& pending, const Grads& grads) const {
  restore_attention(ctx, w, mb, s);
  restore_feed_forward(ctx, w, s);
  restore_attention_norm(ctx, w, s);
  const TensorView dh = ctx.saved_for_wgrad.take(dy.dtype, dy.shape, "dresidual");
  {
    const Arena::Scope scope(ctx.scratch);
    const TensorView dn = ctx.scratch.take(dy.dtype, dy.shape, "dnorm");
    if (moe_) {
      moe_->backward_input(ctx, w.moe, dy, dn, s.moe, pending.moe);
    } else {
      mlp_.backward_input(ctx, w.mlp, dy, dn, s.mlp, pending.mlp);
    }
    feed_forward_norm_backward(ctx, w, dh, dn, dy, s, grads);
  }
  attention_dgrad(ctx, w, mb, dh, dx, s, pending, grads);
}

void Block::backward_weight(Context& ctx, const Saved& s, const Pending& pending,
                            const Grads& grads) const {
  if (moe_) {
    moe_->backward_weight(ctx, s.moe, pending.moe, grads.moe);
  } else {
    mlp_.backward_weight(ctx, s.mlp, pending.mlp, grads.mlp);
  }
  attention_.backward_weight(ctx, s.attention, pending.attention, grads.attention);
}

void Block::backward(Context& ctx, const Weights& w, const Microbatch& mb, ConstTensorView dy,
                     TensorView dx, Saved& s, Pending& pending, const Grads& grads) const {
  restore_attention(ctx, w, mb, s);
  const Arena::Place again = ctx.saved_for_dgrad.here(), again_weight = ctx.saved_for_wgrad.here();
  restore_feed_forward(ctx, w, s);
  const Arena::Scope scope(ctx.scratch);
  const TensorView dh = ctx.scratch.take(dy.dtype, dy.shape, "dresidual");
  {
    const Arena::Scope feed_forward(ctx.scratch);
    const TensorView dn = ctx.scratch.take(dy.dtype, dy.shape, "dnorm");
    if (moe_) {
      moe_->backward(ctx, w.moe, dy, dn, s.moe, grads.moe);
    } else {
      mlp_.backward(ctx, w.mlp, dy, dn, s.mlp, grads.mlp);
    }
    feed_forward_norm_backward(ctx, w, dh, dn, dy, s, grads);
  }
  for (const Arena::Place& p : {again, again_weight, s.ffn_input, s.ffn_weight}) p.release();
  restore_attention_norm(ctx, w, s);
  attention_dgrad(ctx, w, mb, dh, dx, s, pending, grads);
  attention_.backward_weight(ctx, s.attention, pending.attention, grads.attention);
}

}  // namespace nereus
