// y = swiglu(x Wgu^T) Wd^T: the dense feed-forward layer and the shared experts.
// T tokens, D model width, F this rank's share of the feed-forward width.
#pragma once

#include "device/device.h"
#include "model/parameters.h"
#include "model/recompute.h"
#include "parallel/tp_region.h"
#include "parallel/weight.h"

namespace nereus {

class Mlp {
 public:
  using Weights = MlpTensors<Weight>;
  using Grads = MlpTensors<TensorView>;
  struct Saved {
    ConstTensorView x;        // [T, D]
    TensorView gate_up, act;  // [T, 2F], [T, F]
  };
  struct Pending {
    TensorView dgate_up;  // [T, 2F]
    ConstTensorView dy;   // [T, D]
  };

  explicit Mlp(TpRegion& tp, const Recompute& recompute = {})
      : tp_(tp),
        recompute_swiglu_(recompute.swiglu),
        recompute_input_(recompute.norms),
        recompute_gate_up_(recompute.gate_up) {}

  // x must live until backward_weight. Without y (a replay) only what is saved is computed.
  void forward(Context&, const Weights&, ConstTensorView x, TensorView y, Saved&) const;
  // With Recompute::norms, before a backward pass: the input that was not kept.
  void restore_input(Context& ctx, ConstTensorView x, Saved& saved) const {
    saved.x = tp_.enter(ctx, ctx.saved_for_wgrad, x);
  }
  // dy must live until backward_weight.
  void backward_input(Context&, const Weights&, ConstTensorView dy, TensorView dx, Saved&,
                      Pending&) const;
  void backward_weight(Context&, const Saved&, const Pending&, const Grads&) const;
  // Both at once, the gradient of gate_up in gate_up's own place: the same bits in less memory.
  void backward(Context&, const Weights&, ConstTensorView dy, TensorView dx, Saved&,
                const Grads&) const;

 private:
  void gate_and_up(Context&, Arena&, const Weights&, Saved&) const;
  void gated_unit(Context&, Arena&, Saved&) const;
  void gated_unit_backward(Context&, TensorView dgate_up, ConstTensorView dy, const Weights&,
                           const Saved&) const;

  TpRegion& tp_;
  bool recompute_swiglu_, recompute_input_, recompute_gate_up_;
};

}  // namespace nereus
