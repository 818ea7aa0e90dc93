#include "model/mla.h"

#include "model/linear.h"
#include "ops/mla.h"
#include "ops/rmsnorm.h"

namespace nereus {
namespace {

// The tokens of a chunk, and its rows of a [rows, H, sequence] tensor.
std::pair<int64_t, int64_t> tokens_of(int chunk, const Microbatch& mb) {
  const int64_t each = mb.tokens() / mb.chunks;
  return {chunk * each, (chunk + 1) * each};
}
TensorView rows_of(int chunk, const Microbatch& mb, const TensorView& stats) {
  const int64_t each = stats.dim(0) / mb.chunks;
  return stats.rows(chunk * each, (chunk + 1) * each);
}

}  // namespace

Mla::Mla(const ModelArgs& args, const RopeTables& rope, TpRegion& tp, TpRegion& keys,
         const Recompute& recompute, ops::AttentionKernels kernels)
    : tp_(tp),
      keys_(keys),
      rope_(rope),
      heads_(args.n_heads / tp.size()),
      nope_(args.qk_nope_head_dim),
      rotary_(args.qk_rope_head_dim),
      value_(args.v_head_dim),
      q_rank_(args.q_lora_rank),
      kv_rank_(args.kv_lora_rank),
      eps_(static_cast<float>(args.latent_norm_eps())),
      scale_(static_cast<float>(rope_parameters(args).softmax_scale)),
      round_normalized_(args.numerics.round_normalized),
      recompute_input_(recompute.norms),
      recompute_up_(recompute.mla_up),
      recompute_assembly_(recompute.assembly),
      kernels_(kernels) {}

// From the latents (and x_full, without q_lora) to q, k and kv as attention reads them. The same
// call in the forward pass and in a recomputing backward pass; only where results are taken
// differs.
void Mla::up_project(Context& ctx, const Weights& w, const Microbatch& mb, Arena& latents,
                     Arena& heads, Saved& s) const {
  const int64_t rows = s.latent.dim(0), Dqk = nope_ + rotary_;
  const TensorView k_pe = s.latent.columns(q_rank_ + kv_rank_, q_rank_ + kv_rank_ + rotary_);
  const auto norm_of = [&](int64_t begin, int64_t end, ConstTensorView weight, TensorView rstd) {
    return ops::RmsNormForward{
        .y = latents.take(s.latent.dtype, {rows, end - begin}, "latent norm"),
        .rstd = rstd,
        .x = s.latent.columns(begin, end),
        .weight = weight,
        .eps = eps_,
        .round_normalized = round_normalized_};
  };
  const auto keys_norm = norm_of(q_rank_, q_rank_ + kv_rank_, w.kv_norm.view, s.kv_rstd);
  if (q_rank_ > 0) {
    const auto q_norm = norm_of(0, q_rank_, w.q_norm.view, s.q_rstd);
    ops::rmsnorm_pair_forward(ctx.stream, {.first = q_norm, .second = keys_norm});
    s.q_latent = tp_.enter(ctx, latents, q_norm.y);
  } else {
    ops::rmsnorm_forward(ctx.stream, keys_norm);
  }
  s.kv_latent = keys_.enter(ctx, latents, keys_norm.y);
  s.k_pe = keys_.enter(ctx, latents, k_pe);

  const int64_t T = mb.tokens(), keys = s.kv_latent.dim(0);
  s.q = heads.take(s.latent.dtype, {T, heads_, Dqk}, "q");
  s.k = (recompute_assembly_ ? ctx.scratch : heads).take(s.latent.dtype, {keys, heads_, Dqk}, "k");
  s.kv = heads.take(s.latent.dtype, {keys, heads_, nope_ + value_}, "kv");
  const TensorView q = s.q.reshape({T, heads_ * Dqk});
  if (q_rank_ > 0) {
    linear_forward(ctx, q, s.q_latent, w.q_up);
  } else {
    linear_forward(ctx, q, s.x_full, w.q);
  }
  linear_forward(ctx, s.kv.reshape({keys, heads_ * (nope_ + value_)}), s.kv_latent, w.kv_up);
  assemble(ctx, mb, s.q, s);
}

// k from its parts, and q's rotation unless it has been done ("no tensor").
void Mla::assemble(Context& ctx, const Microbatch& mb, TensorView q, const Saved& s) const {
  const bool own_keys = mb.key_sequence == 0;
  if (!own_keys && q)
    ops::rotate_heads(ctx.stream, {.x = q.columns(nope_, nope_ + rotary_),
                                   .cos = rope_.cos,
                                   .sin = rope_.sin,
                                   .positions = mb.positions});
  ops::mla_assemble(ctx.stream, {.q = own_keys ? q : TensorView(),
                                 .k = s.k,
                                 .k_nope = s.kv.columns(0, nope_),
                                 .k_pe = s.k_pe,
                                 .cos = rope_.cos,
                                 .sin = rope_.sin,
                                 .positions = own_keys ? mb.positions : mb.key_positions});
}

void Mla::forward(Context& ctx, const Weights& w, const Microbatch& mb, ConstTensorView x,
                  TensorView y, Saved& s, Context& kept, bool attended) const {
  const int64_t rows = x.dim(0), T = mb.tokens();
  s.x = x;
  s.latent = ctx.saved_for_dgrad.take(x.dtype, {rows, w.latent.dim(0)}, "latents");
  if (q_rank_ > 0) s.q_rstd = ctx.saved_for_dgrad.take(DType::f32, {rows}, "q rstd");
  s.kv_rstd = ctx.saved_for_dgrad.take(DType::f32, {rows}, "kv rstd");
  if (!attended) {
    s.lse = kept.saved_for_dgrad.take(DType::f32, {T / mb.sequence, heads_, mb.sequence},
                                      "attention lse");
    s.o = kept.saved_for_wgrad.take(x.dtype, {T, heads_, value_}, "attention out");
  }
  linear_forward(ctx, s.latent, x, w.latent);

  const Arena::Scope scope(ctx.scratch);
  if (q_rank_ == 0)  // else latents alone are gathered
    s.x_full = tp_.enter(ctx, recompute_full_input() ? ctx.scratch : ctx.saved_for_wgrad, x);
  up_project(ctx, w, mb, recompute_up_ ? ctx.scratch : ctx.saved_for_wgrad,
             recompute_up_ ? ctx.scratch : ctx.saved_for_dgrad, s);
  for (int chunk = 0; !attended && chunk < mb.chunks; ++chunk) {
    const auto [begin, end] = tokens_of(chunk, mb);
    ops::attention_forward(ctx.stream, {.o = s.o.rows(begin, end),
                                        .lse = rows_of(chunk, mb, s.lse),
                                        .q = s.q.rows(begin, end),
                                        .k = s.k,
                                        .v = s.kv.columns(nope_, nope_ + value_),
                                        .first_key = mb.first_key.rows(begin, end),
                                        .sequence = mb.sequence,
                                        .scale = scale_,
                                        .mask = mb.mask,
                                        .kernels = kernels_,
                                        .key_sequence = mb.key_sequence,
                                        .chunk_start = mb.chunk_start[static_cast<size_t>(chunk)]});
  }
  const TensorView partial = tp_.partial(ctx, y);
  linear_forward(ctx, partial, s.o.reshape({T, heads_ * value_}), w.out);
  tp_.leave(ctx, y, partial);
}

// dq into pending.dq, dv into pending.dkv, dk; chunk by chunk, from the one that sees most keys.
void Mla::attention_backward(Context& ctx, const Microbatch& mb, ConstTensorView dout,
                             TensorView dk, const Saved& s, const Pending& pending) const {
  const TensorView delta = ctx.scratch.take(DType::f32, s.lse.shape, "attention delta");
  for (int chunk = mb.chunks - 1; chunk >= 0; --chunk) {
    const Arena::Scope scope(ctx.scratch);
    const auto [begin, end] = tokens_of(chunk, mb);
    ops::AttentionBackward backward{.dq = pending.dq.rows(begin, end),
                                    .dk = dk,
                                    .dv = pending.dkv.columns(nope_, nope_ + value_),
                                    .delta = rows_of(chunk, mb, delta),
                                    .dout = dout.rows(begin, end),
                                    .o = s.o.rows(begin, end),
                                    .lse = rows_of(chunk, mb, s.lse),
                                    .q = s.q.rows(begin, end),
                                    .k = s.k,
                                    .v = s.kv.columns(nope_, nope_ + value_),
                                    .first_key = mb.first_key.rows(begin, end),
                                    .sequence = mb.sequence,
                                    .scale = scale_,
                                    .mask = mb.mask,
                                    .kernels = kernels_,
                                    .key_sequence = mb.key_sequence,
                                    .chunk_start = mb.chunk_start[static_cast<size_t>(chunk)],
                                    .accumulate = chunk < mb.chunks - 1};
    const int64_t workspace = ops::attention_backward_workspace(ctx.stream, backward);
    if (workspace > 0)
      backward.workspace = ctx.scratch.take(DType::u8, {workspace}, "attention workspace");
    ops::attention_backward(ctx.stream, backward);
  }
}

void Mla::backward_input(Context& ctx, const Weights& w, const Microbatch& mb,
                         ConstTensorView dy_shard, TensorView dx, Saved& s, Pending& pending,
                         const Grads& grads) const {
  const int64_t T = mb.tokens(), Dqk = nope_ + rotary_;
  const DType dtype = dy_shard.dtype;
  const int64_t keys = mb.key_sequence == 0 ? T : T / mb.sequence / mb.chunks * mb.key_sequence;
  const ConstTensorView dy = tp_.leave_backward(ctx, ctx.saved_for_wgrad, dy_shard);
  if (q_rank_ == 0 && recompute_full_input()) s.x_full = tp_.enter(ctx, ctx.saved_for_wgrad, s.x);
  if (recompute_up_) {
    up_project(ctx, w, mb, ctx.saved_for_wgrad, ctx.saved_for_dgrad, s);
  } else if (recompute_assembly_) {
    s.k = ctx.scratch.take(dtype, {keys, heads_, Dqk}, "k");
    assemble(ctx, mb, {}, s);
  }
  pending.dy = dy;
  pending.dq = ctx.saved_for_wgrad.take(dtype, {T, heads_, Dqk}, "dq");
  pending.dkv = ctx.saved_for_wgrad.take(dtype, {keys, heads_, nope_ + value_}, "dkv");
  pending.dlatent = ctx.saved_for_wgrad.take(dtype, s.latent.shape, "dlatents");

  const Arena::Scope scope(ctx.scratch);
  const TensorView dk_pe =
      pending.dlatent.columns(q_rank_ + kv_rank_, q_rank_ + kv_rank_ + rotary_);
  const TensorView dk_pe_partial = keys_.partial(ctx, dk_pe);
  {
    const Arena::Scope attention(ctx.scratch);
    const TensorView dout = ctx.scratch.take(dtype, {T, heads_, value_}, "dattention");
    const TensorView dk = ctx.scratch.take(dtype, {keys, heads_, Dqk}, "dk");
    linear_dgrad(ctx, dout.reshape({T, heads_ * value_}), dy, w.out);
    attention_backward(ctx, mb, dout, dk, s, pending);
    const bool own_keys = mb.key_sequence == 0;
    if (!own_keys)
      ops::rotate_heads(ctx.stream, {.x = pending.dq.columns(nope_, nope_ + rotary_),
                                     .cos = rope_.cos,
                                     .sin = rope_.sin,
                                     .positions = mb.positions,
                                     .back = true});
    ops::mla_assemble_backward(ctx.stream,
                               {.dq = own_keys ? pending.dq : TensorView(),
                                .dk_nope = pending.dkv.columns(0, nope_),
                                .dk_pe = dk_pe_partial,
                                .dk = dk,
                                .cos = rope_.cos,
                                .sin = rope_.sin,
                                .positions = own_keys ? mb.positions : mb.key_positions});
  }
  keys_.enter_backward(ctx, dk_pe, dk_pe_partial);

  // One latent's gradient through its up-projection; what remains is its norm, into its columns of
  // dlatent.
  const auto norm_of = [&](TensorView dhead, const Weight& up, const Weight& norm,
                           ConstTensorView rstd, TensorView dnorm, int64_t begin, int64_t end,
                           TpRegion& region) {
    const TensorView dnormal =
        ctx.scratch.take(dtype, {s.latent.dim(0), end - begin}, "dlatent norm");
    const Arena::Scope inner(ctx.scratch);
    const TensorView partial = region.partial(ctx, dnormal);
    linear_dgrad(ctx, partial, dhead.reshape({dhead.dim(0), dhead.dim(1) * dhead.dim(2)}), up);
    region.enter_backward(ctx, dnormal, partial);
    return ops::RmsNormBackward{.dx = pending.dlatent.columns(begin, end),
                                .dweight = dnorm,
                                .dy = dnormal,
                                .x = s.latent.columns(begin, end),
                                .weight = norm.view,
                                .rstd = rstd,
                                .accumulate = ctx.accumulate};
  };
  const auto keys_norm = norm_of(pending.dkv, w.kv_up, w.kv_norm, s.kv_rstd, grads.kv_norm, q_rank_,
                                 q_rank_ + kv_rank_, keys_);
  if (q_rank_ > 0) {
    const auto q_norm =
        norm_of(pending.dq, w.q_up, w.q_norm, s.q_rstd, grads.q_norm, 0, q_rank_, tp_);
    ops::rmsnorm_pair_backward(ctx.stream, {.first = q_norm, .second = keys_norm});
  } else {
    ops::rmsnorm_backward(ctx.stream, keys_norm);
  }
  if (q_rank_ == 0) {
    const TensorView partial = tp_.partial(ctx, dx);
    linear_dgrad(ctx, partial, pending.dq.reshape({T, heads_ * Dqk}), w.q);
    tp_.enter_backward(ctx, dx, partial);
  }
  linear_dgrad(ctx, dx, pending.dlatent, w.latent, /*accumulate=*/q_rank_ == 0);
}

void Mla::backward_weight(Context& ctx, const Saved& s, const Pending& pending,
                          const Grads& grads) const {
  const auto flat = [](const TensorView& v) { return v.reshape({v.dim(0), v.dim(1) * v.dim(2)}); };
  linear_wgrad(ctx, grads.out, pending.dy, flat(s.o));
  linear_wgrad(ctx, grads.kv_up, flat(pending.dkv), s.kv_latent);
  if (q_rank_ > 0) {
    linear_wgrad(ctx, grads.q_up, flat(pending.dq), s.q_latent);
  } else {
    linear_wgrad(ctx, grads.q, flat(pending.dq), s.x_full);
  }
  linear_wgrad(ctx, grads.latent, pending.dlatent, s.x);
}

}  // namespace nereus
