// One block: h = x + attention(norm(x)), y = h + ffn(norm(h)), where ffn is dense or of experts.
//
// With Recompute::block only x is kept, and the routing of a layer of experts: the backward pass
// replays forward first (restore_...).
#pragma once

#include <memory>

#include "model/mla.h"
#include "model/moe.h"
#include "model/recompute.h"

namespace nereus {

// What a layer is composed with, chosen once: strategies of parallel/, and which kernels.
struct LayerParallel {
  TpRegion &tp, &expert_tp;  // expert_tp: of one rank where experts are not cut
  TpRegion& keys;            // of attention's keys and values; tp without context parallelism
  TokenDispatcher& dispatcher;
  ops::AttentionKernels attention = {};
  // Where rows are exchanged concurrently with work that needs none of them; null: not
  SideStream* exchange = nullptr;
};

class Block {
 public:
  using Weights = BlockTensors<Weight>;
  using Grads = BlockTensors<TensorView>;
  struct Saved {
    ConstTensorView x;        // [T, D], the block's input
    TensorView n1, h, n2;     // [T, D]
    TensorView rstd1, rstd2;  // f32 [T]
    Mla::Saved attention;
    Mlp::Saved mlp;  // dense
    Moe::Saved moe;  // experts
    // Where the feed-forward layer's part of the arenas begins.
    Arena::Place ffn_input = {}, ffn_weight = {};
  };
  struct Pending {
    Mla::Pending attention;
    Mlp::Pending mlp;
    Moe::Pending moe;
  };

  Block(const ModelArgs&, int64_t layer, const RopeTables&, LayerParallel, Recompute);

  // x must live until backward_input; y [T, D] is written.
  void forward(Context&, const Weights&, const Microbatch&, const ExpertLoad&, ConstTensorView x,
               TensorView y, Saved&) const;
  // dy must live until backward_weight; dx [T, D] is written and may not alias dy.
  void backward_input(Context&, const Weights&, const Microbatch&, ConstTensorView dy,
                      TensorView dx, Saved&, Pending&, const Grads&) const;
  void backward_weight(Context&, const Saved&, const Pending&, const Grads&) const;
  // Both passes, layer by layer: the feed-forward layer's memory is given back before attention's
  // dgrad takes its own. The same bits as backward_input and backward_weight.
  void backward(Context&, const Weights&, const Microbatch&, ConstTensorView dy, TensorView dx,
                Saved&, Pending&, const Grads&) const;

 private:
  // What forward did not keep and the backward pass needs, in the order in which it is made again.
  void restore_attention(Context&, const Weights&, const Microbatch&, Saved&) const;
  void restore_feed_forward(Context&, const Weights&, Saved&) const;
  void restore_attention_norm(Context&, const Weights&, Saved&) const;
  void feed_forward_norm_backward(Context&, const Weights&, TensorView dh, ConstTensorView dn,
                                  ConstTensorView dy, const Saved&, const Grads&) const;
  void attention_dgrad(Context&, const Weights&, const Microbatch&, TensorView dh, TensorView dx,
                       Saved&, Pending&, const Grads&) const;
  void attend(Context&, const Weights&, const Microbatch&, Saved&, Context& kept,
              bool attended) const;
  void feed_forward(Context&, const Weights&, TensorView f, Saved&) const;
  void normalise(Context&, TensorView y, TensorView rstd, ConstTensorView x,
                 ConstTensorView weight) const;

  int64_t layer_;
  float eps_;
  bool round_normalized_;
  Recompute recompute_;
  Mla attention_;
  Mlp mlp_;
  std::unique_ptr<Moe> moe_;  // null: dense
};

}  // namespace nereus
