// What the forward pass does not keep and backward_input makes again, by the same calls on the same
// numbers: gradients are the same bits, memory is less. Routing is never among it.
#pragma once

namespace nereus {

struct Recompute {
  bool block = false;   // all but a block's input
  bool norms = false;   // outputs of attention_norm and ffn_norm
  bool mla_up = false;  // latent norms, up-projections and assembly of q, k, v
  bool swiglu = false;  // products of the gated units

  static Recompute none() { return {}; }
  static Recompute selective() {
    return {.block = false, .norms = true, .mla_up = true, .swiglu = true};
  }
  static Recompute full() { return {.block = true}; }
};

}  // namespace nereus
