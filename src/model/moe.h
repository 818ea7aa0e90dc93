// The mixture of experts (DeepSeek-V3, arXiv 2412.19437, section 2.1.2): a router sends each token
// to K of E experts, and a shared feed-forward layer sees every token.
//
//   y[t] = shared(x[t]) + sum_k weight[t,k] expert_{ids[t,k]}(x[t])
//   expert_e(x) = (silu(x W1_e^T) * (x W3_e^T)) W2_e^T
//
// The weight is folded into the gated unit: W2 (weight * act) = weight * W2 act. With
// score_before_experts it multiplies the expert's input instead.
// Under tensor parallelism the router works on this rank's tokens. Where experts are cut too
// (expert_tp = tp), tokens and their routing are gathered for them; where they are whole
// (expert_tp of one rank), each rank dispatches its own tokens, and the shared experts alone are a
// region of tp.
//
// T tokens, D model width, F an expert's width (on this rank), R rows of this rank's experts; tp
// the size of expert_tp.
#pragma once

#include "base/function_ref.h"
#include "config/model_args.h"
#include "device/side_stream.h"
#include "model/microbatch.h"
#include "model/mlp.h"
#include "model/parameters.h"
#include "model/recompute.h"
#include "ops/router.h"
#include "parallel/token_dispatcher.h"

namespace nereus {

// What the balancing of a layer's experts keeps between steps.
struct ExpertLoad {
  ConstTensorView bias = {};  // f32 [E]; "no tensor" without balancing
  TensorView load;            // i64 [E], tokens routed since the last update
};

class Moe {
 public:
  using Weights = MoeTensors<Weight>;
  using Grads = MoeTensors<TensorView>;

  // The decision, made once a microbatch and never again.
  struct Routing {
    TensorView weights, scores, ids;       // f32 [T/tp, K], f32 [T/tp, E], i32 [T/tp, K]
    ConstTensorView all_weights, all_ids;  // of the region's tokens: [T, K]
    TokenDispatcher::Plan plan;
  };
  struct Saved {
    ConstTensorView x_shard, x;  // [T/tp, D], [T, D]
    Routing routing;
    TokenDispatcher::Rows rows;  // [R, D], f32 [R]
    TensorView gate_up, act;     // [R, 2F], [R, F]
    Mlp::Saved shared;
  };
  struct Pending {
    TensorView dout;      // [R, D], gradient of the experts' outputs
    TensorView dgate_up;  // [R, 2F]
    TensorView dlogits;   // [T/tp, E]
    Mlp::Pending shared;
  };

  // `exchange`: the dispatcher's rows are exchanged there, concurrently with the shared experts and
  // wgrads; null: in the layer's own stream.
  Moe(const ModelArgs&, TokenDispatcher&, TpRegion& tp, TpRegion& expert_tp, SideStream* exchange,
      const Recompute&, int64_t layer);
  Moe(const Moe&) = delete;  // its parts refer to each other
  Moe& operator=(const Moe&) = delete;

  void route(Context&, const Weights&, const ExpertLoad&, const Microbatch&, ConstTensorView x,
             Routing&) const;
  // After route(). Without y (a replay) only what is saved is computed.
  void forward(Context&, const Weights&, ConstTensorView x, TensorView y, Saved&) const;
  // With Recompute::norms, before a backward pass: the input that was not kept.
  void restore_input(Context&, ConstTensorView x, Saved&) const;
  void backward_input(Context&, const Weights&, ConstTensorView dy, TensorView dx, Saved&,
                      Pending&) const;
  void backward_weight(Context&, const Saved&, const Pending&, const Grads&) const;
  // Both at once: what a wgrad reads is given back right after it, and the gradient of gate_up
  // takes gate_up's own place. The same bits in less memory.
  void backward(Context&, const Weights&, ConstTensorView dy, TensorView dx, Saved&,
                const Grads&) const;

 private:
  // For what the dispatcher is given between the two; nothing else in between may need its results.
  Context fork(Context&) const;
  void join(Context&) const;
  void dispatch(Context&, Arena&, Saved&) const;
  void gate_and_up(Context&, const Weights&, Saved&) const;  // into the memory that it has
  void gated_unit(Context&, Arena&, Saved&) const;
  // The gradients of gate_up and of the rows' weights, from that of the experts' outputs.
  void gated_unit_backward(Context&, TensorView dgate_up, TensorView drow_weights,
                           ConstTensorView dout, const Weights&, const Saved&) const;
  // From the gradient of gate_up (and of the shared experts' input) to dx and the logits'.
  // `meanwhile` is enqueued while the rows travel.
  void dispatch_backward(Context&, ConstTensorView dgate_up, ConstTensorView drow_weights,
                         ConstTensorView dshared, const Weights&, const Saved&, TensorView dx,
                         TensorView dlogits, FunctionRef<void()> meanwhile) const;
  ConstTensorView used_rows(const Saved&) const;  // i32 [1]: how many rows there are

  TokenDispatcher& dispatcher_;
  SideStream* exchange_;
  IdentityRegion whole_;
  TpRegion& expert_tp_;  // of the routed experts
  Mlp shared_;
  ops::RoutingRule rule_;
  int64_t experts_, top_k_, layer_;
  int tp_rank_;  // whose tokens the router has
  bool has_shared_, weigh_input_, f32_router_, recompute_norms_, recompute_swiglu_,
      recompute_dispatch_, recompute_gate_up_;
};

}  // namespace nereus
