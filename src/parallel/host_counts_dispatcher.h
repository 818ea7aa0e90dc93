// Expert parallelism over any Communicator: the reference of others.
//
// Rank r of the group holds experts [r E/ep, (r + 1) E/ep). A rank sorts its slots by expert, tells
// all others how many rows each expert gets (the host reads these counts, once a layer and
// microbatch), sends the rows, and sorts what it received by expert, then by sender, then by slot:
// the order that one rank with all tokens would have, so that an expert's sums are the same.
//
// A plan keeps its counts: combine, the backward pass and a replay exchange the same rows again.
// Where a rank would receive more rows than its capacity, each of its experts gets the same
// share of what each rank has for it (parallel/clipped_rows.h).
#pragma once

#include "comm/communicator.h"
#include "parallel/token_dispatcher.h"

namespace nereus {

struct ClippedRows;

class HostCountsDispatcher final : public TokenDispatcher {
 public:
  // `group` must outlive the dispatcher; `experts` of all ranks, which its size divides.
  // `capacity_factor`: rows this rank can receive for each slot (token and choice) of its own; 0:
  // what all ranks together can send at most, which never overflows.
  HostCountsDispatcher(Communicator& group, int64_t experts, double capacity_factor = 0);

  int64_t local_experts() const override { return experts_ / group_.size(); }
  const char* name() const override { return "host_counts"; }
  bool exchanges_by_all_to_all() const override { return true; }
  int64_t capacity(int64_t T, int64_t K) const override {
    return plan_capacity(T, K, group_.size(), local_experts(), capacity_factor_);
  }
  Plan plan(Context&, Arena& arena, ConstTensorView ids) override;
  void dispatch(Context&, const Plan&, ConstTensorView x, ConstTensorView weights, bool weigh,
                const Rows& rows) override;
  void combine(Context&, const Plan&, ConstTensorView rows, ConstTensorView addend,
               TensorView out) override;
  void combine_backward(Context&, const Plan&, ConstTensorView dout, TensorView drows) override;
  void dispatch_backward(Context&, const Plan&, const DispatchBackward&) override;

 private:
  void read_counts(Stream&, TensorView offsets, int64_t capacity, int64_t slots, Plan::Exchanged&);
  void leave_out(Stream&, const ClippedRows&, TensorView offsets, const Plan::Sorted&);
  // This rank's rows, sorted by expert, to the experts' rows, and back.
  void to_experts(Context&, const Plan&, TensorView rows, ConstTensorView sorted);
  void from_experts(Context&, const Plan&, TensorView sorted, ConstTensorView rows);

  Communicator& group_;
  int64_t experts_;
  double capacity_factor_;
  std::vector<int32_t> counts_;  // every rank's offsets, as the host reads them
};

}  // namespace nereus
