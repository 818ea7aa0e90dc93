// What a layer's method gets besides its tensors: the stream, the arenas of the microbatch, and who
// watches. Strategies of this folder (regions, dispatchers) get it too, and no lower layer does.
#pragma once

#include "device/device.h"
#include "tensor/arena.h"

namespace nereus {

// Sees tensors as layers make them: how `probe` writes hidden states. Training has none.
class Observer {
 public:
  virtual ~Observer() = default;
  // `what` is a literal such as "attn_out"; layer -1 outside the blocks. The view is valid during
  // the call only, and its contents once the stream has been synchronized.
  virtual void see(Stream&, const char* what, int64_t layer, ConstTensorView) = 0;
};

// A layer's surroundings during one pass of one microbatch. Views taken from `saved_for_dgrad`
// live until the layer's backward_input ends, from `saved_for_wgrad` until its backward_weight
// ends, from `scratch` until the scope ends in which they were taken. The arenas are those of the
// pass: what forward keeps and what a backward pass makes again may lie in different ones.
struct Context {
  Stream& stream;
  Arena& saved_for_dgrad;
  Arena& saved_for_wgrad;
  Arena& scratch;
  bool accumulate = false;  // weight gradients are added to; false: written (a step's first pass)
  Observer* observer = nullptr;

  void show(const char* what, int64_t layer, ConstTensorView view) const {
    if (observer != nullptr) observer->see(stream, what, layer, view);
  }
};

}  // namespace nereus
