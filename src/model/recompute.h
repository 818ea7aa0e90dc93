// What the forward pass does not keep and the backward pass makes again, by the same calls on the
// same numbers: gradients are the same bits, memory is less. Routing is never among it.
#pragma once

namespace nereus {

struct Recompute {
  bool block = false;           // all but a block's input
  bool kept_attention = false;  // of such a block the outputs and statistics of attention are kept
  bool norms = false;           // outputs of attention_norm and ffn_norm
  bool mla_up = false;          // latent norms, up-projections and assembly of q, k, v
  bool assembly = false;        // k alone, from its parts
  bool swiglu = false;          // products of the gated units
  bool dispatch = false;        // the experts' rows, by another dispatch
  bool gate_up = false;  // what the gated units read: the first product of a feed-forward layer

  static Recompute none() { return {}; }
  static Recompute selective() {
    return {.norms = true, .mla_up = true, .swiglu = true, .dispatch = true};
  }
  static Recompute full() {
    return {.block = true, .assembly = true, .swiglu = true, .dispatch = true};
  }
};

}  // namespace nereus
