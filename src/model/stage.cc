#include "model/stage.h"

#include "base/check.h"
#include "ops/embedding.h"

namespace nereus {

Stage::Saved::Saved(const Stage& stage)
    : blocks(static_cast<size_t>(stage.blocks())),
      pending(static_cast<size_t>(stage.blocks())),
      input_marks(static_cast<size_t>(stage.blocks()) + 1),
      weight_marks(static_cast<size_t>(stage.blocks()) + 1) {}

Stage::Stage(const ModelArgs& args, const ModelLayout& layout, Part part, const RopeTables& rope,
             LayerParallel parallel, std::span<const Recompute> recompute, ParameterStore& store,
             std::vector<ExpertLoad> load)
    : args_(args),
      part_(part),
      store_(store),
      embedding_(layout.embedding),
      head_handles_(layout.head),
      load_(std::move(load)),
      tp_(parallel.tp),
      head_(args, parallel.tp) {
  for (int64_t layer = part.first_block; layer < part.end_block; ++layer) {
    const auto i = static_cast<size_t>(layer);
    handles_.push_back(layout.blocks[i]);
    blocks_.push_back(std::make_unique<Block>(args, layer, rope, parallel, recompute[i]));
    buckets_.push_back(static_cast<int>(layer) + 1);
  }
  if (part.embedding) buckets_.insert(buckets_.begin(), 0);
  if (part.head) buckets_.push_back(static_cast<int>(args.n_layers) + 1);
  NEREUS_CHECK(kContract, load_.size() == blocks_.size(), "{} expert loads for {} blocks",
               load_.size(), blocks_.size());
}

ConstTensorView Stage::forward(Context& ctx, const Microbatch& mb, ConstTensorView x,
                               TensorView loss, Saved& s) const {
  const auto weight = [this](TensorHandle h) { return store_.weight(h); };
  const auto gradient = [this](TensorHandle h) { return store_.gradient(h); };
  if (part_.embedding) x = embed(ctx, mb);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    s.input_marks[i] = ctx.saved_input.mark();
    s.weight_marks[i] = ctx.saved_weight.mark();
    const TensorView y = ctx.saved_input.take(x.dtype, x.shape, "block y");
    store_.open(ctx.stream, bucket(i), next_bucket(static_cast<int64_t>(i)));
    blocks_[i]->forward(ctx, handles_[i].map(weight), mb, load_[i], x, y, s.blocks[i]);
    store_.close(ctx.stream, bucket(i));
    x = y;
  }
  s.input_marks.back() = ctx.saved_input.mark();
  s.weight_marks.back() = ctx.saved_weight.mark();
  s.y = x;
  if (!part_.head) return x;
  store_.open(ctx.stream, head_bucket());
  if (mb.training) {
    store_.open_gradients(ctx.stream, head_bucket());
    head_.forward(ctx, head_handles_.map(weight), mb, x, loss, s.head, head_handles_.map(gradient));
  } else {
    head_.forward(ctx, head_handles_.map(weight), mb, x, loss, s.head, {});
  }
  // A backward pass that follows at once finds the weights where they are.
  store_.close(ctx.stream, head_bucket());
  return {};
}

ConstTensorView Stage::embed(Context& ctx, const Microbatch& mb) const {
  store_.open(ctx.stream, 0, next_bucket(-1));
  const ConstTensorView table = store_.weight(embedding_).view;
  const TensorView out =
      ctx.saved_input.take(table.dtype, {mb.tokens() / tp_.size(), args_.dim}, "embedding");
  const Arena::Scope scope(ctx.scratch);
  const TensorView partial = tp_.partial(ctx, out);
  ops::embedding_forward(
      ctx.stream,
      {.out = partial, .table = table, .ids = mb.ids, .first = tp_.rank() * table.dim(0)});
  tp_.leave(ctx, out, partial);
  ctx.show("hidden.embed", -1, out);
  store_.close(ctx.stream, 0);
  return out;
}

// dx into `dx`.
void Stage::head_backward(Context& ctx, TensorView dx, const Saved& s) const {
  const auto weight = [this](TensorHandle h) { return store_.weight(h); };
  const auto gradient = [this](TensorHandle h) { return store_.gradient(h); };
  store_.open(ctx.stream, head_bucket());
  store_.open_gradients(ctx.stream, head_bucket());
  head_.backward_input(ctx, head_handles_.map(weight), dx, s.head, head_handles_.map(gradient));
  store_.close(ctx.stream, head_bucket());
  store_.close_gradients(ctx.stream, head_bucket());
}

ConstTensorView Stage::backward(Context& ctx, const Microbatch& mb, ConstTensorView dy,
                                Saved& s) const {
  const auto weight = [this](TensorHandle h) { return store_.weight(h); };
  const auto gradient = [this](TensorHandle h) { return store_.gradient(h); };
  // A block's dy is read by its wgrad; its dx is the next block's dy: two buffers, by turns.
  TensorView turns[2] = {ctx.scratch.take(s.y.dtype, s.y.shape, "dy"),
                         ctx.scratch.take(s.y.dtype, s.y.shape, "dx")};
  size_t turn = 0;
  if (part_.head) {
    head_backward(ctx, turns[turn], s);
    dy = turns[turn];
    turn = 1;
  }
  ctx.saved_input.release(s.input_marks.back());
  for (size_t i = blocks_.size(); i-- > 0;) {
    const TensorView dx = turns[turn];
    turn = 1 - turn;
    store_.open(ctx.stream, bucket(i), i > 0 ? bucket(i - 1) : -1);
    store_.open_gradients(ctx.stream, bucket(i));
    blocks_[i]->backward(ctx, handles_[i].map(weight), mb, dy, dx, s.blocks[i], s.pending[i],
                         handles_[i].map(gradient));
    store_.close(ctx.stream, bucket(i));
    store_.close_gradients(ctx.stream, bucket(i));
    ctx.saved_input.release(s.input_marks[i]);
    ctx.saved_weight.release(s.weight_marks[i]);
    dy = dx;
  }
  if (!part_.embedding) return dy;
  embedding_backward(ctx, mb, tp_.leave_backward(ctx, ctx.scratch, dy));
  return {};
}

ConstTensorView Stage::backward_input(Context& ctx, const Microbatch& mb, ConstTensorView dy,
                                      Saved& s) const {
  const auto weight = [this](TensorHandle h) { return store_.weight(h); };
  const auto gradient = [this](TensorHandle h) { return store_.gradient(h); };
  if (part_.head) {
    const TensorView dx = ctx.saved_weight.take(s.y.dtype, s.y.shape, "dy");
    head_backward(ctx, dx, s);
    dy = dx;
  }
  for (size_t i = blocks_.size(); i-- > 0;) {
    const TensorView dx = ctx.saved_weight.take(s.y.dtype, s.y.shape, "dx");
    const Arena::Scope scope(ctx.scratch);
    store_.open(ctx.stream, bucket(i), i > 0 ? bucket(i - 1) : -1);
    blocks_[i]->backward_input(ctx, handles_[i].map(weight), mb, dy, dx, s.blocks[i], s.pending[i],
                               handles_[i].map(gradient));
    store_.close(ctx.stream, bucket(i));
    dy = dx;
  }
  if (!part_.embedding) return dy;
  s.dembedding = tp_.leave_backward(ctx, ctx.saved_weight, dy);
  return {};
}

void Stage::backward_weight(Context& ctx, const Microbatch& mb, Saved& s) const {
  const auto gradient = [this](TensorHandle h) { return store_.gradient(h); };
  for (size_t i = blocks_.size(); i-- > 0;)
    blocks_[i]->backward_weight(ctx, s.blocks[i], s.pending[i], handles_[i].map(gradient));
  if (part_.embedding) embedding_backward(ctx, mb, s.dembedding);
}

void Stage::embedding_backward(Context& ctx, const Microbatch& mb, ConstTensorView dy) const {
  store_.open_gradients(ctx.stream, 0);
  const TensorView dtable = store_.gradient(embedding_);
  ops::embedding_backward(ctx.stream, {.dtable = dtable,
                                       .dy = dy,
                                       .ids = mb.ids,
                                       .first = tp_.rank() * dtable.dim(0),
                                       .accumulate = ctx.accumulate});
  store_.close_gradients(ctx.stream, 0);
}

}  // namespace nereus
