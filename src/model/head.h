// The end of the model: final norm, output projection, cross entropy.
//
//   n = norm(x)    logits = n Wout^T    loss += loss_scale * sum_t nll(logits[t], labels[t])
//
// The logits of a long batch never exist whole: forward goes over chunks of tokens and makes, a
// chunk at a time, the loss, the gradient of n and the output weight's gradient; the scale of the
// loss is known beforehand. What is left for the backward pass is the norm.
//
// Under tensor parallelism each rank has V/tp rows of Wout and so as many columns of the logits; of
// each row the ranks exchange three numbers (loss parallel), and all have the loss.
#pragma once

#include "config/model_args.h"
#include "device/device.h"
#include "model/microbatch.h"
#include "model/parameters.h"
#include "parallel/tp_region.h"
#include "parallel/weight.h"

namespace nereus {

class Head {
 public:
  using Weights = HeadTensors<Weight>;
  using Grads = HeadTensors<TensorView>;
  struct Saved {
    ConstTensorView x;    // [T/tp, D]
    TensorView rstd, dn;  // f32 [T/tp], [T/tp, D]
  };

  // Logits of a chunk are at most about this many bytes.
  static constexpr int64_t kChunkBytes = int64_t{128} << 20;

  Head(const ModelArgs&, TpRegion&);

  // loss f32 [1] is added to. Without mb.training no gradients are made.
  void forward(Context&, const Weights&, const Microbatch&, ConstTensorView x, TensorView loss,
               Saved&, const Grads&) const;
  void backward_input(Context&, const Weights&, TensorView dx, const Saved&, const Grads&) const;

 private:
  int64_t chunk_rows(int64_t tokens, DType) const;
  void cross_entropy(Context&, const Microbatch&, int64_t begin, TensorView logits,
                     TensorView nll) const;

  TpRegion& tp_;
  int64_t vocabulary_;  // of this rank
  float eps_;
  bool round_normalized_;
};

}  // namespace nereus
