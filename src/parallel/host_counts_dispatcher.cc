#include "parallel/host_counts_dispatcher.h"

#include <numeric>

#include "base/check.h"
#include "ops/arrivals.h"
#include "ops/elementwise.h"
#include "ops/permute.h"
#include "ops/step.h"
#include "parallel/clipped_rows.h"

namespace nereus {
namespace {

int64_t sum(const std::vector<int64_t>& rows) {
  return std::accumulate(rows.begin(), rows.end(), int64_t{0});
}
using Exchanged = TokenDispatcher::Plan::Exchanged;
const Exchanged& exchange_of(const TokenDispatcher::Plan& plan) {
  return std::get<Exchanged>(plan.route);
}

// Rows that were left out do not come back.
void clear_left_out(Stream& stream, const Exchanged& route, TensorView sorted) {
  const int64_t sent = sum(route.sent);
  if (!stream.on_meta() && sent < sorted.dim(0))
    ops::fill(stream, {.out = sorted.rows(sent, sorted.dim(0)), .value = 0});
}

}  // namespace

HostCountsDispatcher::HostCountsDispatcher(Communicator& group, int64_t experts,
                                           double capacity_factor)
    : group_(group),
      experts_(experts),
      capacity_factor_(capacity_factor),
      counts_(static_cast<size_t>(group.size() * (experts + 1))) {
  NEREUS_CHECK(kContract, experts % group.size() == 0, "{} experts on {} ranks", experts,
               group.size());
}

TokenDispatcher::Plan HostCountsDispatcher::plan(Context& ctx, Arena& arena, ConstTensorView ids) {
  const int64_t T = ids.dim(0), K = ids.dim(1), ep = group_.size(), E = local_experts();
  Plan plan{.offsets = {}, .rows = capacity(T, K), .route = Exchanged()};
  auto& route = std::get<Exchanged>(plan.route);
  route.sorted = {.row_of_slot = arena.take(DType::i32, {T, K}, "row_of_slot"),
                  .slot_of_row = arena.take(DType::i32, {T * K}, "slot_of_row")};
  plan.offsets = arena.take(DType::i32, {E + 1}, "expert offsets");
  route.row_of_arrival = arena.take(DType::i32, {plan.rows, 1}, "row_of_arrival");
  route.arrival_of_row = arena.take(DType::i32, {plan.rows}, "arrival_of_row");
  route.sent.resize(static_cast<size_t>(ep));
  route.received.resize(static_cast<size_t>(ep));
  const Arena::Scope scope(ctx.scratch);
  const TensorView mine = ctx.scratch.take(DType::i32, {1, experts_ + 1}, "expert offsets");
  const TensorView offsets = ctx.scratch.take(DType::i32, {ep, experts_ + 1}, "all expert offsets");
  ops::permute_plan(ctx.stream, {.row_of_slot = route.sorted.row_of_slot,
                                 .slot_of_row = route.sorted.slot_of_row,
                                 .offsets = mine.reshape({experts_ + 1}),
                                 .ids = ids});
  group_.all_gather(ctx.stream, offsets, mine);
  if (!ctx.stream.on_meta()) read_counts(ctx.stream, offsets, plan.rows, T * K, route);
  ops::arrivals(ctx.stream, {.row_of_arrival = route.row_of_arrival,
                             .arrival_of_row = route.arrival_of_row,
                             .local_offsets = plan.offsets,
                             .offsets = offsets,
                             .first = group_.rank() * E});
  return plan;
}

// The host learns how many rows go to and come from each rank.
void HostCountsDispatcher::read_counts(Stream& stream, TensorView offsets, int64_t capacity,
                                       int64_t slots, Plan::Exchanged& route) {
  copy_to_host(stream, counts_.data(), offsets);
  stream.synchronize();
  const int64_t E = local_experts(), me = group_.rank();
  const ClippedRows clipped(counts_, group_.size(), experts_, capacity);
  if (clipped.wanted > capacity) {
    NEREUS_CHECK(
        kConfig, overflow_,
        "expert parallelism: a rank of {} receives {} rows for its {} experts, whose capacity is "
        "{} ({} slots of its own, {} times).\n  Routing is more skewed than the bound on receive "
        "buffers allows: raise parallelism.expert_capacity_factor, or set it to 0.",
        group_.size(), clipped.wanted, E, capacity, slots, capacity_factor_);
    leave_out(stream, clipped, offsets, route.sorted);
  }
  const auto rows = [&](int64_t from, int64_t to) {
    const int32_t* at = clipped.offsets.data() + from * (experts_ + 1) + to * E;
    return at[E] - at[0];
  };
  for (int64_t r = 0; r < group_.size(); ++r) {
    route.sent[static_cast<size_t>(r)] = rows(me, r);
    route.received[static_cast<size_t>(r)] = rows(r, me);
  }
}

// This rank's rows that are sent come first, and all counts are those of rows that are sent.
void HostCountsDispatcher::leave_out(Stream& stream, const ClippedRows& clipped, TensorView offsets,
                                     const Plan::Sorted& sorted) {
  ops::raise(stream, {.word = overflow_, .value = clipped.wanted});
  const std::vector<int32_t> place = clipped.places(counts_, group_.rank(), experts_);
  std::vector<int32_t> row_of_slot(place.size()), slot_of_row(place.size());
  copy_to_host(stream, row_of_slot.data(), sorted.row_of_slot);
  stream.synchronize();
  for (size_t slot = 0; slot < place.size(); ++slot) {
    int32_t& row = row_of_slot[slot];
    row = place[static_cast<size_t>(row)];
    slot_of_row[static_cast<size_t>(row)] = static_cast<int32_t>(slot);
  }
  copy_to_device(stream, sorted.row_of_slot, row_of_slot.data());
  copy_to_device(stream, sorted.slot_of_row, slot_of_row.data());
  copy_to_device(stream, offsets, clipped.offsets.data());
  stream.synchronize();  // with the host's memory
}

void HostCountsDispatcher::to_experts(Context& ctx, const Plan& plan, TensorView rows,
                                      ConstTensorView sorted) {
  const int64_t n = sum(exchange_of(plan).received);
  const Arena::Scope scope(ctx.scratch);
  if (rows.rank() == 1) {
    const TensorView arrived = ctx.scratch.take(rows.dtype, {plan.rows}, "arrived scalars");
    group_.all_to_all(ctx.stream, arrived, sorted, exchange_of(plan).sent,
                      exchange_of(plan).received);
    ops::gather_scalars(ctx.stream, {.out = rows.rows(0, n),
                                     .x = arrived.rows(0, n),
                                     .index = exchange_of(plan).arrival_of_row.rows(0, n)});
    return;
  }
  const TensorView arrived = ctx.scratch.take(rows.dtype, {plan.rows, rows.dim(1)}, "arrived rows");
  group_.all_to_all(ctx.stream, arrived, sorted, exchange_of(plan).sent,
                    exchange_of(plan).received);
  ops::permute(ctx.stream, {.rows = rows,
                            .x = arrived.rows(0, n),
                            .row_of_slot = exchange_of(plan).row_of_arrival.rows(0, n)});
}

void HostCountsDispatcher::from_experts(Context& ctx, const Plan& plan, TensorView sorted,
                                        ConstTensorView rows) {
  const int64_t n = sum(exchange_of(plan).received);
  const Arena::Scope scope(ctx.scratch);
  if (rows.rank() == 1) {
    const TensorView leaving = ctx.scratch.take(rows.dtype, {plan.rows}, "leaving scalars");
    ops::gather_scalars(
        ctx.stream, {.out = leaving.rows(0, n),
                     .x = rows.rows(0, n),
                     .index = exchange_of(plan).row_of_arrival.reshape({plan.rows}).rows(0, n)});
    group_.all_to_all(ctx.stream, sorted, leaving, exchange_of(plan).received,
                      exchange_of(plan).sent);
    clear_left_out(ctx.stream, exchange_of(plan), sorted);
    return;
  }
  const TensorView leaving = ctx.scratch.take(rows.dtype, {plan.rows, rows.dim(1)}, "leaving rows");
  ops::combine(ctx.stream, {.out = leaving.rows(0, n),
                            .rows = rows,
                            .row_of_slot = exchange_of(plan).row_of_arrival.rows(0, n)});
  group_.all_to_all(ctx.stream, sorted, leaving, exchange_of(plan).received,
                    exchange_of(plan).sent);
  clear_left_out(ctx.stream, exchange_of(plan), sorted);
}

void HostCountsDispatcher::dispatch(Context& ctx, const Plan& plan, ConstTensorView x,
                                    ConstTensorView weights, bool weigh, const Rows& rows) {
  const Arena::Scope scope(ctx.scratch);
  const int64_t slots = exchange_of(plan).sorted.slot_of_row.dim(0);
  const TensorView sorted = ctx.scratch.take(x.dtype, {slots, x.dim(1)}, "sorted rows");
  const TensorView sorted_weights = ctx.scratch.take(DType::f32, {slots}, "sorted weights");
  ops::permute(ctx.stream, {.rows = sorted,
                            .x = x,
                            .row_of_slot = exchange_of(plan).sorted.row_of_slot,
                            .weights = weigh ? weights : ConstTensorView()});
  ops::gather_scalars(
      ctx.stream,
      {.out = sorted_weights, .x = weights, .index = exchange_of(plan).sorted.slot_of_row});
  to_experts(ctx, plan, rows.x, sorted);
  to_experts(ctx, plan, rows.weights, sorted_weights);
}

void HostCountsDispatcher::combine(Context& ctx, const Plan& plan, ConstTensorView rows,
                                   ConstTensorView addend, TensorView out) {
  const Arena::Scope scope(ctx.scratch);
  const TensorView sorted = ctx.scratch.take(
      rows.dtype, {exchange_of(plan).sorted.slot_of_row.dim(0), rows.dim(1)}, "sorted rows");
  from_experts(ctx, plan, sorted, rows);
  ops::combine(ctx.stream, {.out = out,
                            .rows = sorted,
                            .row_of_slot = exchange_of(plan).sorted.row_of_slot,
                            .addend = addend});
}

void HostCountsDispatcher::combine_backward(Context& ctx, const Plan& plan, ConstTensorView dout,
                                            TensorView drows) {
  const Arena::Scope scope(ctx.scratch);
  const TensorView sorted = ctx.scratch.take(
      dout.dtype, {exchange_of(plan).sorted.slot_of_row.dim(0), dout.dim(1)}, "sorted rows");
  ops::permute(ctx.stream,
               {.rows = sorted, .x = dout, .row_of_slot = exchange_of(plan).sorted.row_of_slot});
  to_experts(ctx, plan, drows, sorted);
}

void HostCountsDispatcher::dispatch_backward(Context& ctx, const Plan& plan,
                                             const DispatchBackward& a) {
  const Arena::Scope scope(ctx.scratch);
  const int64_t slots = exchange_of(plan).sorted.slot_of_row.dim(0);
  const TensorView sorted = ctx.scratch.take(a.drows.dtype, {slots, a.drows.dim(1)}, "sorted rows");
  from_experts(ctx, plan, sorted, a.drows);
  ops::combine(ctx.stream, {.out = a.dx,
                            .rows = sorted,
                            .row_of_slot = exchange_of(plan).sorted.row_of_slot,
                            .weights = a.weigh ? a.weights : ConstTensorView(),
                            .addend = a.addend});
  if (a.weigh) {
    ops::row_dot(ctx.stream, {.out = a.dweights,
                              .rows = sorted,
                              .x = a.x,
                              .row_of_slot = exchange_of(plan).sorted.row_of_slot});
    return;
  }
  const TensorView sorted_weights = ctx.scratch.take(DType::f32, {slots}, "sorted weights");
  from_experts(ctx, plan, sorted_weights, a.drow_weights);
  ops::gather_scalars(
      ctx.stream,
      {.out = a.dweights, .x = sorted_weights, .index = exchange_of(plan).sorted.row_of_slot});
}

}  // namespace nereus
