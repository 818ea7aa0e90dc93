// The update at the end of a step: gradient norm, clipping, expert-bias update, Adam or AdamW. All
// of it stays on the device; the host reads the result afterwards.
#pragma once

#include "train/engine.h"

namespace nereus {

class Optimizer {
 public:
  struct Options {
    bool decoupled = true;  // AdamW; false: Adam
    double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
    double max_norm = 1.0;
  };

  Optimizer(Stream&, Engine&, const Options&);

  // Enqueues the update of step `step` (from 1) with learning rate `lr`. A step whose gradient norm
  // is not finite changes no weight and no moment.
  void update(int64_t step, double lr);

  TensorView loss() const { return loss_; }  // f32 [1], written by the executor

  // What the host reads after a step; waits for the stream.
  struct Result {
    float loss, grad_norm;  // grad_norm before clipping
    bool ok;                // false: not finite, the update was not done
  };
  Result read();

 private:
  Stream& stream_;
  Engine& engine_;
  Options options_;
  Buffer buffer_;
  TensorView loss_, norm_, coefficient_, step_ok_, sum_squares_;
};

}  // namespace nereus
