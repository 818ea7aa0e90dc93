// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1), expanded for training:
//
//   [c_q | c_kv | k_pe] = x Wlatent^T        q = norm(c_q) Wq_up^T   (without q_lora: q = x Wq^T)
//   [k_nope | v] = norm(c_kv) Wkv_up^T       rope(q), k = [k_nope | rope(k_pe)]
//   y = attention(q, k, v) Wo^T
//
// T tokens, D model width, H this rank's heads, Rq and Rkv widths of the latents. The latents are
// made for this rank's rows and gathered; heads are split. Under context parallelism the latents of
// keys and values are gathered for whole sequences (Tk tokens; elsewhere Tk = T) and expanded here.
#pragma once

#include "config/model_args.h"
#include "device/device.h"
#include "model/microbatch.h"
#include "model/parameters.h"
#include "model/recompute.h"
#include "model/rope.h"
#include "ops/attention.h"
#include "parallel/tp_region.h"
#include "parallel/weight.h"

namespace nereus {

class Mla {
 public:
  using Weights = MlaTensors<Weight>;
  using Grads = MlaTensors<TensorView>;
  struct Saved {
    ConstTensorView x;                    // [T/tp, D]
    ConstTensorView x_full;               // [T, D], without q_lora
    TensorView latent;                    // [T, Rq + Rkv + Drope]
    TensorView q_rstd, kv_rstd;           // f32 [T]
    ConstTensorView q_latent, kv_latent;  // [T, Rq], [Tk, Rkv], normalised
    ConstTensorView k_pe;                 // [Tk, Drope], before its rotation
    TensorView q, k;                      // [T, H, Dqk], [Tk, H, Dqk], rotated
    TensorView kv;                        // [Tk, H, Dnope + Dv]
    TensorView o, lse;                    // [T, H, Dv], f32 [B, H, S]
  };
  struct Pending {
    ConstTensorView dy;           // [T, D]
    TensorView dq, dkv, dlatent;  // gradients of the outputs of q's, kv's and the latents' GEMMs
  };

  // `keys`: the region of keys and values; tp itself without context parallelism.
  Mla(const ModelArgs&, const RopeTables&, TpRegion& tp, TpRegion& keys, const Recompute&,
      ops::AttentionKernels);

  // x must live until backward_weight. Outputs and statistics of attention are taken from `kept`'s
  // arenas, ctx itself if nothing else is to be done with them; in a replay that finds them kept,
  // `attended`, attention itself is not computed.
  void forward(Context&, const Weights&, const Microbatch&, ConstTensorView x, TensorView y, Saved&,
               Context& kept, bool attended) const;
  // dy must live until backward_weight, and so must Saved::x, which whoever recomputes it sets
  // again before this. Norm weights' gradients are made here.
  void backward_input(Context&, const Weights&, const Microbatch&, ConstTensorView dy,
                      TensorView dx, Saved&, Pending&, const Grads&) const;
  void backward_weight(Context&, const Saved&, const Pending&, const Grads&) const;

 private:
  void attention_backward(Context&, const Microbatch&, ConstTensorView dout, TensorView dk,
                          const Saved&, const Pending&) const;
  void assemble(Context&, const Microbatch&, TensorView q, const Saved&) const;
  bool recompute_full_input() const { return recompute_input_ || recompute_up_; }
  void up_project(Context&, const Weights&, const Microbatch&, Arena& latents, Arena& heads,
                  Saved&) const;

  TpRegion &tp_, &keys_;
  RopeTables rope_;
  int64_t heads_, nope_, rotary_, value_, q_rank_, kv_rank_;
  float eps_, scale_;
  bool round_normalized_, recompute_input_, recompute_up_, recompute_assembly_;
  ops::AttentionKernels kernels_;
};

}  // namespace nereus
