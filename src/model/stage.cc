#include "model/stage.h"

#include "ops/elementwise.h"
#include "ops/embedding.h"

namespace nereus {

Stage::Saved::Saved(const Stage& stage)
    : kept(stage.modules_.size()), blocks(stage.blocks_.size()), pending(stage.blocks_.size()) {
  input_gradient.resize(stage.input_edge_.size());
}

Stage::Stage(const ModelArgs& args, const ModelLayout& layout, const RopeTables& rope,
             LayerParallel parallel, ParameterStore& store, const Options& options)
    : dim_(args.dim),
      store_(store),
      tp_(parallel.tp),
      embedding_(layout.embedding),
      embedding_bucket_(layout.embedding_bucket),
      head_(args, parallel.tp),
      head_tensors_(layout.head) {
  const Part& part = options.part;
  if (part.embedding) {
    modules_.push_back(
        {.kind = Module::Kind::embedding, .name = "embedding", .bucket = layout.embedding_bucket});
  } else {
    input_edge_ = {options.edge};
  }
  for (int64_t layer = part.first_block; layer < part.end_block; ++layer) {
    const auto i = static_cast<size_t>(layer);
    modules_.push_back({.kind = Module::Kind::block,
                        .name = "block",
                        .bucket = layout.block_buckets[i],
                        .block = blocks_.size(),
                        .layer = static_cast<int>(layer)});
    blocks_.push_back(std::make_unique<Block>(args, layer, rope, parallel, options.recompute[i]));
    block_tensors_.push_back(layout.blocks[i]);
    load_.push_back(options.load[i]);
  }
  if (part.head) {
    modules_.push_back({.kind = Module::Kind::head, .name = "head", .bucket = layout.head_bucket});
  } else {
    output_edge_ = {options.edge};
  }
  for (const Module& m : modules_) buckets_.push_back(m.bucket);
}

std::unique_ptr<PipelineStage::Saved> Stage::make_saved() const {
  return std::make_unique<Saved>(*this);
}

int Stage::next_in_forward(size_t i) const {
  return i + 1 < modules_.size() ? modules_[i + 1].bucket : -1;
}

// The embedding's backward pass reads no weights.
int Stage::next_in_backward(size_t i) const {
  if (i == 0 || modules_[i - 1].kind == Module::Kind::embedding) return -1;
  return modules_[i - 1].bucket;
}

void Stage::forward(Context& ctx, const Microbatch& mb, std::span<const TensorView> input,
                    std::span<const TensorView> output, TensorView loss,
                    PipelineStage::Saved& saved) const {
  auto& s = static_cast<Saved&>(saved);
  if (!input.empty()) s.hidden = input[0];
  for (size_t i = 0; i < modules_.size(); ++i) {
    const bool last = i + 1 == modules_.size() && !output.empty();
    forward_module(i, ctx, mb, last ? output[0] : TensorView(), loss, s);
  }
  if (modules_.empty()) ops::cast(ctx.stream, {.out = output[0], .x = input[0]});
}

void Stage::forward_module(size_t i, Context& ctx, const Microbatch& mb, TensorView output,
                           TensorView loss, Saved& s) const {
  const Module& m = modules_[i];
  const TraceRange range(ctx.stream.trace(), TraceKind::layer, m.name, {.layer = m.layer});
  s.kept[i] = {ctx.saved_for_dgrad.here(), ctx.saved_for_wgrad.here()};
  store_.unshard(ctx.stream, m.bucket, next_in_forward(i));
  switch (m.kind) {
    case Module::Kind::embedding:
      s.hidden = embed(ctx, mb, output);
      break;
    case Module::Kind::block: {
      const TensorView y =
          output ? output : ctx.saved_for_dgrad.take(s.hidden.dtype, s.hidden.shape, "block y");
      blocks_[m.block]->forward(ctx, block_tensors_[m.block].map(weight()), mb, load_[m.block],
                                s.hidden, y, s.blocks[m.block]);
      s.hidden = y;
      break;
    }
    case Module::Kind::head:
      forward_head(ctx, mb, loss, m.bucket, s);
      break;
  }
  // A backward pass that follows at once finds the weights where they are.
  store_.reshard(ctx.stream, m.bucket);
}

ConstTensorView Stage::embed(Context& ctx, const Microbatch& mb, TensorView output) const {
  const ConstTensorView table = store_.weight(embedding_).view;
  const TensorView out =
      output ? output
             : ctx.saved_for_dgrad.take(table.dtype, {mb.tokens() / tp_.size(), dim_}, "embedding");
  const Arena::Scope scope(ctx.scratch);
  const TensorView partial = tp_.partial(ctx, out);
  ops::embedding_forward(
      ctx.stream,
      {.out = partial, .table = table, .ids = mb.ids, .first = tp_.rank() * table.dim(0)});
  tp_.leave(ctx, out, partial);
  ctx.show("hidden.embed", -1, out);
  return out;
}

// The gradients stay open for the backward pass: it adds the norm's to the output weight's.
void Stage::forward_head(Context& ctx, const Microbatch& mb, TensorView loss, int bucket,
                         Saved& s) const {
  Head::Grads grads;
  if (mb.training) {
    store_.begin_gradients(ctx.stream, bucket);
    grads = head_tensors_.map(gradient());
  }
  head_.forward(ctx, head_tensors_.map(weight()), mb, s.hidden, loss, s.head, grads);
}

void Stage::backward(Context& ctx, const Microbatch& mb, std::span<const TensorView> dy,
                     PipelineStage::Saved& saved) const {
  auto& s = static_cast<Saved&>(saved);
  // A block's dy is read by its wgrad; its dx is the next block's dy: two buffers, by turns.
  s.turns = {ctx.scratch.take(s.hidden.dtype, s.hidden.shape, "dy"),
             ctx.scratch.take(s.hidden.dtype, s.hidden.shape, "dx")};
  s.turn = 0;
  if (!dy.empty()) s.dhidden = dy[0];
  for (size_t i = modules_.size(); i-- > 0;) backward_module(i, ctx, mb, s);
  if (!s.input_gradient.empty()) s.input_gradient[0] = s.dhidden;
}

void Stage::backward_module(size_t i, Context& ctx, const Microbatch& mb, Saved& s) const {
  const Module& m = modules_[i];
  const TraceRange range(ctx.stream.trace(), TraceKind::layer, m.name, {.layer = m.layer});
  const Arena::Place again = ctx.saved_for_dgrad.here(), again_weight = ctx.saved_for_wgrad.here();
  if (m.kind == Module::Kind::embedding) {
    embedding_backward(ctx, mb, tp_.leave_backward(ctx, ctx.scratch, s.dhidden));
  } else {
    const TensorView dx = s.turns[s.turn];
    s.turn = 1 - s.turn;
    store_.unshard(ctx.stream, m.bucket, next_in_backward(i));
    store_.begin_gradients(ctx.stream, m.bucket);
    if (m.kind == Module::Kind::head) {
      head_.backward_input(ctx, head_tensors_.map(weight()), dx, s.head,
                           head_tensors_.map(gradient()));
    } else {
      blocks_[m.block]->backward(ctx, block_tensors_[m.block].map(weight()), mb, s.dhidden, dx,
                                 s.blocks[m.block], s.pending[m.block],
                                 block_tensors_[m.block].map(gradient()));
    }
    store_.reshard(ctx.stream, m.bucket);
    store_.end_gradients(ctx.stream, m.bucket);
    s.dhidden = dx;
  }
  for (const Arena::Place& p : {again, again_weight, s.kept[i].dgrad, s.kept[i].wgrad}) p.release();
}

void Stage::backward_input(Context& ctx, const Microbatch& mb, std::span<const TensorView> dy,
                           PipelineStage::Saved& saved) const {
  auto& s = static_cast<Saved&>(saved);
  if (!dy.empty()) s.dhidden = dy[0];
  for (size_t i = modules_.size(); i-- > 0;) {
    const Module& m = modules_[i];
    const TraceRange range(ctx.stream.trace(), TraceKind::layer, m.name, {.layer = m.layer});
    if (m.kind == Module::Kind::embedding) {
      s.dembedding = tp_.leave_backward(ctx, ctx.saved_for_wgrad, s.dhidden);
      continue;
    }
    const bool head = m.kind == Module::Kind::head;
    const TensorView dx =
        ctx.saved_for_wgrad.take(s.hidden.dtype, s.hidden.shape, head ? "dy" : "dx");
    const Arena::Scope scope(ctx.scratch), again(ctx.saved_for_dgrad);
    store_.unshard(ctx.stream, m.bucket, next_in_backward(i));
    if (head) {
      store_.begin_gradients(ctx.stream, m.bucket);
      head_.backward_input(ctx, head_tensors_.map(weight()), dx, s.head,
                           head_tensors_.map(gradient()));
    } else {
      blocks_[m.block]->backward_input(ctx, block_tensors_[m.block].map(weight()), mb, s.dhidden,
                                       dx, s.blocks[m.block], s.pending[m.block],
                                       block_tensors_[m.block].map(gradient()));
    }
    store_.reshard(ctx.stream, m.bucket);
    if (head) store_.end_gradients(ctx.stream, m.bucket);
    s.dhidden = dx;
  }
  if (!s.input_gradient.empty()) s.input_gradient[0] = s.dhidden;
}

// Of the head nothing is left to do.
void Stage::backward_weight(Context& ctx, const Microbatch& mb, PipelineStage::Saved& saved) const {
  auto& s = static_cast<Saved&>(saved);
  for (size_t i = modules_.size(); i-- > 0;) {
    const Module& m = modules_[i];
    const TraceRange range(ctx.stream.trace(), TraceKind::layer, m.name, {.layer = m.layer});
    if (m.kind == Module::Kind::block)
      blocks_[m.block]->backward_weight(ctx, s.blocks[m.block], s.pending[m.block],
                                        block_tensors_[m.block].map(gradient()));
    if (m.kind == Module::Kind::embedding) embedding_backward(ctx, mb, s.dembedding);
  }
}

void Stage::embedding_backward(Context& ctx, const Microbatch& mb, ConstTensorView dy) const {
  store_.begin_gradients(ctx.stream, embedding_bucket_);
  const TensorView dtable = store_.gradient(embedding_);
  ops::embedding_backward(ctx.stream, {.dtable = dtable,
                                       .dy = dy,
                                       .ids = mb.ids,
                                       .first = tp_.rank() * dtable.dim(0),
                                       .accumulate = ctx.accumulate});
  store_.end_gradients(ctx.stream, embedding_bucket_);
}

}  // namespace nereus
