// Expert parallelism between ranks that see each other's memory (comm/window.h): a rank writes its
// tokens' rows straight to where their experts want them, and reads the experts' rows from there,
// in the kernels that permute and sum them. How many rows go where stays on the device: the host
// waits for nothing.
//
// All arenas that passes of the step take from must lie in shared_memory(), at the same places on
// all ranks: what is at a place here is at that place there.
//
// Rows are in the order that one rank with all tokens would have, so an expert's sums are the same.
// Where a rank is over its capacity, the rows with the highest places are left out on all ranks.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "ops/peer_rows.h"
#include "parallel/token_dispatcher.h"

namespace nereus {

class DeviceDispatcher final : public TokenDispatcher {
 public:
  // `group`, whose ranks share memory, must outlive the dispatcher; its size divides `experts`.
  // `capacity_factor`: this rank's capacity, for each slot (token and choice) of its own; 0: what
  // all ranks together can send at most.
  DeviceDispatcher(Communicator& group, int64_t experts, double capacity_factor = 0);
  ~DeviceDispatcher() override;

  int64_t local_experts() const override { return experts_ / group_.size(); }
  const char* name() const override { return "device"; }
  bool takes_scratch() const override { return false; }
  std::byte* shared_memory(Stream&, int64_t bytes) override;
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
  void meet(Stream&);
  ops::PeerTensor everywhere(ConstTensorView) const;  // a tensor of this rank, on all ranks

  Communicator& group_;
  int64_t experts_;
  double capacity_factor_;
  std::unique_ptr<Window> window_;
};

}  // namespace nereus
