#include "parallel/device_dispatcher.h"

#include "base/check.h"
#include "ops/permute.h"

namespace nereus {
namespace {

// i32 [T, K, 2]
TensorView place_of(const TokenDispatcher::Plan& plan) {
  return std::get<TokenDispatcher::Plan::Placed>(plan.route).place;
}

}  // namespace

DeviceDispatcher::DeviceDispatcher(Communicator& group, int64_t experts, double capacity_factor)
    : group_(group), experts_(experts), capacity_factor_(capacity_factor) {
  NEREUS_CHECK(kContract, experts % group.size() == 0, "{} experts on {} ranks", experts,
               group.size());
}

DeviceDispatcher::~DeviceDispatcher() = default;

std::byte* DeviceDispatcher::shared_memory(Stream& stream, int64_t bytes) {
  window_ = nullptr;  // its memory first
  window_ = group_.window(stream, bytes);
  return window_->data();
}

void DeviceDispatcher::meet(Stream& stream) {
  if (!stream.on_meta()) window_->meet(stream);
}

ops::PeerTensor DeviceDispatcher::everywhere(ConstTensorView v) const {
  ops::PeerTensor out{.bases = ConstTensorView(nullptr, DType::i64, {group_.size()}),
                      .offset = 0,
                      .dtype = v.dtype,
                      .shape = v.shape};
  if (v.data == nullptr) return out;  // on the meta device
  out.bases = window_->bases();
  out.offset = v.data - window_->data();
  NEREUS_CHECK(kContract, out.offset >= 0 && out.offset + v.bytes() <= window_->bytes(),
               "expert rows are not in the memory that ranks share");
  return out;
}

TokenDispatcher::Plan DeviceDispatcher::plan(Context& ctx, Arena& arena, ConstTensorView ids) {
  const int64_t T = ids.dim(0), K = ids.dim(1), ep = group_.size();
  Plan plan;
  plan.rows = capacity(T, K);
  plan.offsets = arena.take(DType::i32, {local_experts() + 1}, "expert offsets");
  plan.route = Plan::Placed{arena.take(DType::i32, {T, K, 2}, "places of slots")};
  const Arena::Scope scope(ctx.scratch);
  const TensorView row_of_slot = ctx.scratch.take(DType::i32, {T, K}, "row_of_slot");
  const TensorView slot_of_row = ctx.scratch.take(DType::i32, {T * K}, "slot_of_row");
  const TensorView mine = ctx.scratch.take(DType::i32, {1, experts_ + 1}, "expert offsets");
  const TensorView offsets = ctx.scratch.take(DType::i32, {ep, experts_ + 1}, "all expert offsets");
  const TensorView first = ctx.scratch.take(DType::i32, {experts_}, "first rows");
  ops::permute_plan(ctx.stream, {.row_of_slot = row_of_slot,
                                 .slot_of_row = slot_of_row,
                                 .offsets = mine.reshape({experts_ + 1}),
                                 .ids = ids});
  group_.all_gather(ctx.stream, offsets, mine);
  ops::peer_plan(ctx.stream, {.place = place_of(plan),
                              .local_offsets = plan.offsets,
                              .first_row = first,
                              .wanted = overflow_,
                              .ids = ids,
                              .row_of_slot = row_of_slot,
                              .offsets = offsets,
                              .rank = group_.rank(),
                              .rows = plan.rows});
  return plan;
}

void DeviceDispatcher::dispatch(Context& ctx, const Plan& plan, ConstTensorView x,
                                ConstTensorView weights, bool weigh, const Rows& rows) {
  meet(ctx.stream);  // the rows' memory is free on all ranks
  ops::peer_permute(ctx.stream, {.rows = everywhere(rows.x),
                                 .row_weights = everywhere(rows.weights),
                                 .x = x,
                                 .weights = weights,
                                 .place = place_of(plan),
                                 .weigh = weigh});
  meet(ctx.stream);  // all rows have come
}

void DeviceDispatcher::combine(Context& ctx, const Plan& plan, ConstTensorView rows,
                               ConstTensorView addend, TensorView out) {
  meet(ctx.stream);  // all experts are done
  ops::peer_combine(
      ctx.stream,
      {.out = out, .rows = everywhere(rows), .place = place_of(plan), .addend = addend});
  meet(ctx.stream);  // nobody reads this rank's rows any more
}

void DeviceDispatcher::combine_backward(Context& ctx, const Plan& plan, ConstTensorView dout,
                                        TensorView drows) {
  meet(ctx.stream);
  ops::peer_permute(ctx.stream, {.rows = everywhere(drows), .x = dout, .place = place_of(plan)});
  meet(ctx.stream);
}

void DeviceDispatcher::dispatch_backward(Context& ctx, const Plan& plan,
                                         const DispatchBackward& a) {
  meet(ctx.stream);
  ops::peer_combine(ctx.stream,
                    {.out = a.dx,
                     .scalars = a.weigh ? TensorView() : a.dweights,
                     .rows = everywhere(a.drows),
                     .row_scalars = a.weigh ? ops::PeerTensor() : everywhere(a.drow_weights),
                     .place = place_of(plan),
                     .weights = a.weigh ? a.weights : ConstTensorView(),
                     .addend = a.addend});
  if (a.weigh)
    ops::peer_dot(
        ctx.stream,
        {.out = a.dweights, .rows = everywhere(a.drows), .x = a.x, .place = place_of(plan)});
  meet(ctx.stream);
}

}  // namespace nereus
