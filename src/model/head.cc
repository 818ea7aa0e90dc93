#include "model/head.h"

#include <algorithm>

#include "model/linear.h"
#include "ops/cross_entropy.h"
#include "ops/elementwise.h"
#include "ops/rmsnorm.h"

namespace nereus {

Head::Head(const ModelArgs& args)
    : vocabulary_(args.vocab_size),
      eps_(static_cast<float>(args.final_norm_eps)),
      round_normalized_(args.family == NumericsFamily::huggingface) {}

// Equal chunks, so that the last one is not a sliver.
int64_t Head::chunk_rows(int64_t tokens, DType dtype) const {
  const int64_t most = std::max<int64_t>(1, kChunkBytes / (vocabulary_ * size_of(dtype)));
  const int64_t chunks = std::max<int64_t>(1, (tokens + most - 1) / most);
  return std::max<int64_t>(1, (tokens + chunks - 1) / chunks);
}

void Head::forward(Context& ctx, const Weights& w, const Microbatch& mb, ConstTensorView x,
                   TensorView loss, Saved& s, const Grads& grads) const {
  const int64_t T = x.dim(0), rows = chunk_rows(T, x.dtype);
  s.x = x;
  s.rstd = ctx.saved_input.take(DType::f32, {T}, "final rstd");
  if (mb.training) s.dn = ctx.saved_input.take(x.dtype, x.shape, "dfinal norm");
  const Arena::Scope scope(ctx.scratch);
  const TensorView n = ctx.scratch.take(x.dtype, x.shape, "final norm");
  const TensorView nll = ctx.scratch.take(DType::f32, {T}, "nll");
  const TensorView chunk = ctx.scratch.take(x.dtype, {rows, vocabulary_}, "logits");
  ops::rmsnorm_forward(ctx.stream, {.y = n,
                                    .rstd = s.rstd,
                                    .sum = {},
                                    .x = x,
                                    .addend = {},
                                    .weight = w.norm,
                                    .eps = eps_,
                                    .round_normalized = round_normalized_});
  ctx.show("hidden.final_norm", -1, n);
  Context gradient = ctx;
  for (int64_t begin = 0; begin < T; begin += rows) {
    const int64_t end = std::min(T, begin + rows);
    const TensorView logits = chunk.rows(0, end - begin);
    linear_forward(ctx, logits, n.rows(begin, end), w.output);
    ctx.show("logits", begin, logits);
    ops::cross_entropy(ctx.stream, {.logits = logits,
                                    .nll = nll.rows(begin, end),
                                    .labels = mb.labels.rows(begin, end),
                                    .scale = mb.loss_scale,
                                    .loss_only = !mb.training});
    if (!mb.training) continue;
    linear_dgrad(ctx, s.dn.rows(begin, end), logits, w.output);
    linear_wgrad(gradient, grads.output, logits, n.rows(begin, end));
    gradient.accumulate = true;
  }
  ops::sum(ctx.stream, {.out = loss, .x = nll, .scale = mb.loss_scale, .accumulate = true});
}

void Head::backward_input(Context& ctx, const Weights& w, TensorView dx, const Saved& s,
                          const Grads& grads) const {
  ops::rmsnorm_backward(ctx.stream, {.dx = dx,
                                     .dweight = grads.norm,
                                     .dy = s.dn,
                                     .x = s.x,
                                     .residual = {},
                                     .weight = w.norm,
                                     .rstd = s.rstd,
                                     .accumulate = ctx.accumulate});
}

}  // namespace nereus
