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
      head_(args) {
  for (int64_t layer = part.first_block; layer < part.end_block; ++layer) {
    const auto i = static_cast<size_t>(layer);
    handles_.push_back(layout.blocks[i]);
    blocks_.push_back(std::make_unique<Block>(args, layer, rope, parallel, recompute[i]));
  }
  NEREUS_CHECK(kContract, load_.size() == blocks_.size(), "{} expert loads for {} blocks",
               load_.size(), blocks_.size());
}

ConstTensorView Stage::forward(Context& ctx, const Microbatch& mb, ConstTensorView x,
                               TensorView loss, Saved& s) const {
  const auto weight = [this](TensorHandle h) { return store_.weight(h); };
  const auto gradient = [this](TensorHandle h) { return store_.gradient(h); };
  if (part_.embedding) {
    const ConstTensorView table = store_.weight(embedding_);
    const TensorView out = ctx.saved_input.take(table.dtype, {mb.tokens(), args_.dim}, "embedding");
    ops::embedding_forward(ctx.stream, {.out = out, .table = table, .ids = mb.ids});
    ctx.show("hidden.embed", -1, out);
    x = out;
  }
  for (size_t i = 0; i < blocks_.size(); ++i) {
    s.input_marks[i] = ctx.saved_input.mark();
    s.weight_marks[i] = ctx.saved_weight.mark();
    const TensorView y = ctx.saved_input.take(x.dtype, x.shape, "block y");
    blocks_[i]->forward(ctx, handles_[i].map(weight), mb, load_[i], x, y, s.blocks[i]);
    x = y;
  }
  s.input_marks.back() = ctx.saved_input.mark();
  s.weight_marks.back() = ctx.saved_weight.mark();
  s.y = x;
  if (!part_.head) return x;
  head_.forward(ctx, head_handles_.map(weight), mb, x, loss, s.head, head_handles_.map(gradient));
  return {};
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
    head_.backward_input(ctx, head_handles_.map(weight), turns[turn], s.head,
                         head_handles_.map(gradient));
    dy = turns[turn];
    turn = 1;
  }
  ctx.saved_input.release(s.input_marks.back());
  for (size_t i = blocks_.size(); i-- > 0;) {
    const TensorView dx = turns[turn];
    turn = 1 - turn;
    const auto grads = handles_[i].map(gradient);
    blocks_[i]->backward(ctx, handles_[i].map(weight), mb, dy, dx, s.blocks[i], s.pending[i],
                         grads);
    ctx.saved_input.release(s.input_marks[i]);
    ctx.saved_weight.release(s.weight_marks[i]);
    dy = dx;
  }
  if (!part_.embedding) return dy;
  ops::embedding_backward(ctx.stream, {.dtable = store_.gradient(embedding_),
                                       .dy = dy,
                                       .ids = mb.ids,
                                       .accumulate = ctx.accumulate});
  return {};
}

}  // namespace nereus
