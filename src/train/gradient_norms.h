// The gradient norm of each layer by itself, after a step (metrics.grad_norm_by_layer). Squares of
// each layer's part of the flat gradients are summed in f64 where they lie and over the ranks that
// count them: together they are the square of the step's norm.
#pragma once

#include <vector>

#include "engine/engine.h"
#include "observe/metrics.h"

namespace nereus {

class GradientNorms {
 public:
  // The engine must outlive it.
  GradientNorms(Engine&, Stream&);

  // A collective of all ranks, where a step is confirmed and none is enqueued after it. By layer,
  // and last of all that is in none: embedding, final norm, head. Valid until the next call.
  const std::vector<LayerNorm>& read();

 private:
  struct Part {
    size_t sum;  // which one
    FlatRange range;
  };

  Engine& engine_;
  Stream& stream_;
  std::vector<Part> parts_;  // that this rank counts
  std::vector<LayerNorm> norms_;
  std::vector<double> host_;
  Buffer buffer_;
  TensorView sums_;  // f64 [layers + 1]
};

}  // namespace nereus
