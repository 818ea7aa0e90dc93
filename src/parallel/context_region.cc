#include "parallel/context_region.h"

#include "base/check.h"
#include "ops/embedding.h"

namespace nereus {
namespace {

// out[i] = x[index[i]]
void take_rows(Context& ctx, TensorView out, ConstTensorView x, ConstTensorView index) {
  ops::embedding_forward(ctx.stream, {.out = out, .table = x, .ids = index});
}

}  // namespace

ContextRegion::ContextRegion(Stream& stream, Communicator& group, int cp, int64_t rows,
                             int64_t sequence)
    : inner_(group), buffer_(stream.device(), 2 * 4 * rows * sequence, "order of keys") {
  const int64_t keys = rows * sequence, chunk = sequence / (2 * cp);
  std::byte* const data = buffer_.data();
  arrival_of_key_ = TensorView(data, DType::i32, {keys});
  key_of_arrival_ = TensorView(data == nullptr ? data : data + 4 * keys, DType::i32, {keys});
  if (stream.on_meta()) return;
  std::vector<int32_t> arrival(static_cast<size_t>(keys)), key(arrival.size());
  int32_t next = 0;
  for (int r = 0; r < cp; ++r)
    for (const int64_t c : chunks_of(r, cp))
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t i = 0; i < chunk; ++i, ++next) {
          const int64_t at = row * sequence + c * chunk + i;
          arrival[static_cast<size_t>(at)] = next;
          key[static_cast<size_t>(next)] = static_cast<int32_t>(at);
        }
  copy_to_device(stream, arrival_of_key_, arrival.data());
  copy_to_device(stream, key_of_arrival_, key.data());
  stream.synchronize();
}

ConstTensorView ContextRegion::enter(Context& ctx, Arena& arena, ConstTensorView x) {
  const TensorView all = arena.take(x.dtype, {x.dim(0) * size(), x.dim(1)}, "gathered keys");
  const Arena::Scope scope(ctx.scratch);
  take_rows(ctx, all, inner_.enter(ctx, ctx.scratch, x), arrival_of_key_);
  return all;
}

TensorView ContextRegion::partial(Context& ctx, TensorView result) {
  return inner_.partial(ctx, result);
}

void ContextRegion::enter_backward(Context& ctx, TensorView dx, TensorView partial) {
  const Arena::Scope scope(ctx.scratch);
  const TensorView ordered = ctx.scratch.take(partial.dtype, partial.shape, "key gradients");
  take_rows(ctx, ordered, partial, key_of_arrival_);
  inner_.enter_backward(ctx, dx, ordered);
}

ConstTensorView ContextRegion::leave_backward(Context&, Arena&, ConstTensorView) {
  NEREUS_FAIL(kContract, "keys go into a region of context parallelism, and only gradients back");
}
void ContextRegion::leave(Context&, TensorView, TensorView) {
  NEREUS_FAIL(kContract, "keys go into a region of context parallelism, and only gradients back");
}

}  // namespace nereus
