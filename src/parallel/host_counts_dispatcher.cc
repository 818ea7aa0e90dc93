#include "parallel/host_counts_dispatcher.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "ops/permute.h"

namespace nereus {
namespace {

// plan.counts is i64 [2, ep]: rows sent to each rank, rows received from each.
struct Counts {
  std::span<const int64_t> sent, received;
  int64_t rows = 0;  // received in all
};

Counts counts_of(const Stream& stream, const TokenDispatcher::Plan& plan,
                 const std::vector<int64_t>& none) {
  const auto ep = static_cast<size_t>(plan.counts.dim(1));
  if (stream.on_meta()) return {.sent = none, .received = none};
  const int64_t* counts = plan.counts.as<int64_t>();
  Counts out{.sent = {counts, ep}, .received = {counts + ep, ep}};
  for (const int64_t n : out.received) out.rows += n;
  return out;
}

}  // namespace

HostCountsDispatcher::HostCountsDispatcher(Communicator& group, int64_t experts, double bound)
    : group_(group),
      experts_(experts),
      bound_(bound),
      none_(static_cast<size_t>(group.size())),
      each_(static_cast<size_t>(group.size()), experts / group.size()) {
  NEREUS_CHECK(kContract, experts % group.size() == 0, "{} experts on {} ranks", experts,
               group.size());
}

TokenDispatcher::Plan HostCountsDispatcher::plan(Context& ctx, Arena& arena, ConstTensorView ids) {
  NEREUS_CHECK(kContract, !ctx.stream.on_gpu(), "the host_counts dispatcher works on host memory");
  const int64_t T = ids.dim(0), K = ids.dim(1), ep = group_.size(), E = local_experts();
  const int64_t all = ep * T * std::min(K, E);
  const int64_t capacity =
      bound_ > 0
          ? std::min(all, static_cast<int64_t>(std::ceil(bound_ * static_cast<double>(T * K))))
          : all;
  Plan plan{.row_of_slot = arena.take(DType::i32, {T, K}, "row_of_slot"),
            .slot_of_row = arena.take(DType::i32, {T * K}, "slot_of_row"),
            .offsets = arena.take(DType::i32, {E + 1}, "expert offsets"),
            .rows = capacity,
            .row_of_arrival = arena.take(DType::i32, {capacity, 1}, "row_of_arrival"),
            .arrival_of_row = arena.take(DType::i32, {capacity}, "arrival_of_row"),
            .counts = arena.take(DType::i64, {2, ep}, "exchange counts")};
  const Arena::Scope scope(ctx.scratch);
  const TensorView offsets = ctx.scratch.take(DType::i32, {experts_ + 1}, "expert offsets");
  const TensorView mine = ctx.scratch.take(DType::i32, {experts_}, "rows by expert");
  const TensorView theirs = ctx.scratch.take(DType::i32, {ep * E}, "rows by sender and expert");
  ops::permute_plan(ctx.stream, {.row_of_slot = plan.row_of_slot,
                                 .slot_of_row = plan.slot_of_row,
                                 .offsets = offsets,
                                 .ids = ids});
  if (ctx.stream.on_meta()) return plan;

  int32_t* const sent = mine.as<int32_t>();
  const int32_t* const begin = offsets.as<int32_t>();
  for (int64_t e = 0; e < experts_; ++e) sent[e] = begin[e + 1] - begin[e];
  group_.all_to_all(ctx.stream, theirs, mine, each_, each_);

  const int32_t* const received = theirs.as<int32_t>();  // [ep, E]
  int64_t* const counts = plan.counts.as<int64_t>();
  int64_t rows = 0;
  for (int64_t r = 0; r < ep; ++r) {
    counts[r] = begin[(r + 1) * E] - begin[r * E];
    counts[ep + r] = 0;
    for (int64_t e = 0; e < E; ++e) counts[ep + r] += received[r * E + e];
    rows += counts[ep + r];
  }
  NEREUS_CHECK(
      kConfig, rows <= capacity,
      "expert parallelism: rank {} of {} receives {} rows for its {} experts, and has room "
      "for {} ({} slots of its own, {} times).\n  Routing is more skewed than the bound on "
      "receive buffers allows: raise the bound.",
      group_.rank(), ep, rows, E, capacity, T * K, bound_);

  // Arrivals are by sender, then expert; rows by expert, then sender.
  int32_t* const local = plan.offsets.as<int32_t>();
  local[0] = 0;
  for (int64_t e = 0; e < E; ++e) {
    local[e + 1] = local[e];
    for (int64_t r = 0; r < ep; ++r) local[e + 1] += received[r * E + e];
  }
  int32_t* const row_of_arrival = plan.row_of_arrival.as<int32_t>();
  int32_t* const arrival_of_row = plan.arrival_of_row.as<int32_t>();
  int32_t arrival = 0;
  for (int64_t r = 0; r < ep; ++r) {
    for (int64_t e = 0; e < E; ++e) {
      int32_t row = local[e];
      for (int64_t before = 0; before < r; ++before) row += received[before * E + e];
      for (int32_t i = 0; i < received[r * E + e]; ++i, ++arrival, ++row) {
        row_of_arrival[arrival] = row;
        arrival_of_row[row] = arrival;
      }
    }
  }
  return plan;
}

void HostCountsDispatcher::to_experts(Context& ctx, const Plan& plan, TensorView rows,
                                      ConstTensorView sorted) {
  const Counts c = counts_of(ctx.stream, plan, none_);
  const Arena::Scope scope(ctx.scratch);
  if (rows.rank() == 1) {
    const TensorView arrived = ctx.scratch.take(rows.dtype, {plan.rows}, "arrived scalars");
    group_.all_to_all(ctx.stream, arrived, sorted, c.sent, c.received);
    ops::gather_scalars(ctx.stream, {.out = rows.rows(0, c.rows),
                                     .x = arrived.rows(0, c.rows),
                                     .index = plan.arrival_of_row.rows(0, c.rows)});
    return;
  }
  const TensorView arrived = ctx.scratch.take(rows.dtype, {plan.rows, rows.dim(1)}, "arrived rows");
  group_.all_to_all(ctx.stream, arrived, sorted, c.sent, c.received);
  ops::permute(ctx.stream, {.rows = rows,
                            .x = arrived.rows(0, c.rows),
                            .row_of_slot = plan.row_of_arrival.rows(0, c.rows),
                            .weights = {}});
}

void HostCountsDispatcher::from_experts(Context& ctx, const Plan& plan, TensorView sorted,
                                        ConstTensorView rows) {
  const Counts c = counts_of(ctx.stream, plan, none_);
  const Arena::Scope scope(ctx.scratch);
  if (rows.rank() == 1) {
    const TensorView leaving = ctx.scratch.take(rows.dtype, {plan.rows}, "leaving scalars");
    ops::gather_scalars(ctx.stream,
                        {.out = leaving.rows(0, c.rows),
                         .x = rows.rows(0, c.rows),
                         .index = plan.row_of_arrival.reshape({plan.rows}).rows(0, c.rows)});
    group_.all_to_all(ctx.stream, sorted, leaving, c.received, c.sent);
    return;
  }
  const TensorView leaving = ctx.scratch.take(rows.dtype, {plan.rows, rows.dim(1)}, "leaving rows");
  ops::combine(ctx.stream, {.out = leaving.rows(0, c.rows),
                            .rows = rows,
                            .row_of_slot = plan.row_of_arrival.rows(0, c.rows),
                            .weights = {},
                            .addend = {}});
  group_.all_to_all(ctx.stream, sorted, leaving, c.received, c.sent);
}

void HostCountsDispatcher::dispatch(Context& ctx, const Plan& plan, ConstTensorView x,
                                    ConstTensorView weights, bool weigh, const Rows& rows) {
  const Arena::Scope scope(ctx.scratch);
  const int64_t slots = plan.slot_of_row.dim(0);
  const TensorView sorted = ctx.scratch.take(x.dtype, {slots, x.dim(1)}, "sorted rows");
  const TensorView sorted_weights = ctx.scratch.take(DType::f32, {slots}, "sorted weights");
  ops::permute(ctx.stream, {.rows = sorted,
                            .x = x,
                            .row_of_slot = plan.row_of_slot,
                            .weights = weigh ? weights : ConstTensorView()});
  ops::gather_scalars(ctx.stream, {.out = sorted_weights, .x = weights, .index = plan.slot_of_row});
  to_experts(ctx, plan, rows.x, sorted);
  to_experts(ctx, plan, rows.weights, sorted_weights);
}

void HostCountsDispatcher::combine(Context& ctx, const Plan& plan, ConstTensorView rows,
                                   ConstTensorView addend, TensorView out) {
  const Arena::Scope scope(ctx.scratch);
  const TensorView sorted =
      ctx.scratch.take(rows.dtype, {plan.slot_of_row.dim(0), rows.dim(1)}, "sorted rows");
  from_experts(ctx, plan, sorted, rows);
  ops::combine(ctx.stream, {.out = out,
                            .rows = sorted,
                            .row_of_slot = plan.row_of_slot,
                            .weights = {},
                            .addend = addend});
}

void HostCountsDispatcher::combine_backward(Context& ctx, const Plan& plan, ConstTensorView dout,
                                            TensorView drows) {
  const Arena::Scope scope(ctx.scratch);
  const TensorView sorted =
      ctx.scratch.take(dout.dtype, {plan.slot_of_row.dim(0), dout.dim(1)}, "sorted rows");
  ops::permute(ctx.stream,
               {.rows = sorted, .x = dout, .row_of_slot = plan.row_of_slot, .weights = {}});
  to_experts(ctx, plan, drows, sorted);
}

void HostCountsDispatcher::dispatch_backward(Context& ctx, const Plan& plan,
                                             const DispatchBackward& a) {
  const Arena::Scope scope(ctx.scratch);
  const int64_t slots = plan.slot_of_row.dim(0);
  const TensorView sorted = ctx.scratch.take(a.drows.dtype, {slots, a.drows.dim(1)}, "sorted rows");
  from_experts(ctx, plan, sorted, a.drows);
  ops::combine(ctx.stream, {.out = a.dx,
                            .rows = sorted,
                            .row_of_slot = plan.row_of_slot,
                            .weights = a.weigh ? a.weights : ConstTensorView(),
                            .addend = a.addend});
  if (a.weigh) {
    ops::row_dot(ctx.stream,
                 {.out = a.dweights, .rows = sorted, .x = a.x, .row_of_slot = plan.row_of_slot});
    return;
  }
  const TensorView sorted_weights = ctx.scratch.take(DType::f32, {slots}, "sorted weights");
  from_experts(ctx, plan, sorted_weights, a.drow_weights);
  ops::gather_scalars(ctx.stream,
                      {.out = a.dweights, .x = sorted_weights, .index = plan.row_of_slot});
}

}  // namespace nereus
