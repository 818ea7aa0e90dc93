#include "model/head.h"

#include <algorithm>

#include "model/linear.h"
#include "ops/cross_entropy.h"
#include "ops/cross_entropy_parts.h"
#include "ops/elementwise.h"
#include "ops/rmsnorm.h"

namespace nereus {

Head::Head(const ModelArgs& args, TpRegion& tp)
    : tp_(tp),
      vocabulary_(args.vocab_size / tp.size()),
      eps_(static_cast<float>(args.final_norm_eps())),
      round_normalized_(args.numerics.round_normalized) {}

// Equal chunks, so that the last one is not a sliver.
int64_t Head::chunk_rows(int64_t tokens, DType dtype) const {
  const int64_t most = std::max<int64_t>(1, kChunkBytes / (vocabulary_ * size_of(dtype)));
  const int64_t chunks = std::max<int64_t>(1, (tokens + most - 1) / most);
  return std::max<int64_t>(1, (tokens + chunks - 1) / chunks);
}

// Of the rows of logits that begin with token `begin`.
void Head::cross_entropy(Context& ctx, const Microbatch& mb, int64_t begin, TensorView logits,
                         TensorView nll) const {
  const int64_t rows = logits.dim(0);
  const ConstTensorView labels = mb.labels.rows(begin, begin + rows);
  if (tp_.size() == 1) {
    ops::cross_entropy(ctx.stream, {.logits = logits,
                                    .nll = nll,
                                    .labels = labels,
                                    .scale = mb.loss_scale,
                                    .loss_only = !mb.training});
    return;
  }
  const Arena::Scope scope(ctx.scratch);
  const int64_t first = vocabulary_ * tp_.rank();
  const TensorView stats = ctx.scratch.take(DType::f32, {1, 3 * rows}, "softmax statistics");
  ops::cross_entropy_stats(
      ctx.stream,
      {.stats = stats.reshape({3, rows}), .logits = logits, .labels = labels, .first = first});
  ops::cross_entropy_join(ctx.stream, {.logits = logits,
                                       .nll = nll,
                                       .stats = tp_.enter(ctx, ctx.scratch, stats),
                                       .labels = labels,
                                       .first = first,
                                       .scale = mb.loss_scale,
                                       .loss_only = !mb.training});
}

void Head::forward(Context& ctx, const Weights& w, const Microbatch& mb, ConstTensorView x,
                   TensorView loss, Saved& s, const Grads& grads) const {
  const int64_t T = mb.tokens(), rows = chunk_rows(T, x.dtype);
  s.x = x;
  s.rstd = ctx.saved_for_dgrad.take(DType::f32, {x.dim(0)}, "final rstd");
  if (mb.training) s.dn = ctx.saved_for_dgrad.take(x.dtype, x.shape, "dfinal norm");
  const Arena::Scope scope(ctx.scratch);
  const TensorView normal = ctx.scratch.take(x.dtype, x.shape, "final norm");
  const TensorView nll = ctx.scratch.take(DType::f32, {T}, "nll");
  const TensorView chunk = ctx.scratch.take(x.dtype, {rows, vocabulary_}, "logits");
  ops::rmsnorm_forward(ctx.stream, {.y = normal,
                                    .rstd = s.rstd,
                                    .x = x,
                                    .weight = w.norm.view,
                                    .eps = eps_,
                                    .round_normalized = round_normalized_});
  ctx.show("hidden.final_norm", -1, normal);
  const ConstTensorView n = tp_.enter(ctx, ctx.scratch, normal);
  const TensorView dn = mb.training ? tp_.partial(ctx, s.dn) : TensorView();
  Context gradient = ctx;
  for (int64_t begin = 0; begin < T; begin += rows) {
    const int64_t end = std::min(T, begin + rows);
    const TensorView logits = chunk.rows(0, end - begin);
    linear_forward(ctx, logits, n.rows(begin, end), w.output);
    ctx.show("logits", begin, logits);
    cross_entropy(ctx, mb, begin, logits, nll.rows(begin, end));
    if (!mb.training) continue;
    linear_dgrad(ctx, dn.rows(begin, end), logits, w.output);
    linear_wgrad(gradient, grads.output, logits, n.rows(begin, end));
    gradient.accumulate = true;
  }
  if (mb.training) tp_.enter_backward(ctx, s.dn, dn);
  ops::sum(ctx.stream, {.out = loss, .x = nll, .scale = mb.loss_scale, .accumulate = true});
}

void Head::backward_input(Context& ctx, const Weights& w, TensorView dx, const Saved& s,
                          const Grads& grads) const {
  ops::rmsnorm_backward(ctx.stream, {.dx = dx,
                                     .dweight = grads.norm,
                                     .dy = s.dn,
                                     .x = s.x,
                                     .weight = w.norm.view,
                                     .rstd = s.rstd,
                                     .accumulate = ctx.accumulate});
}

}  // namespace nereus
