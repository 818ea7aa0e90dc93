// The update at the end of a step: gradient norm, clipping, expert-bias update, Adam or AdamW. All
// of it stays on the device, and happens where the step counts (engine/step_gate.h).
#pragma once

#include "engine/engine.h"
#include "engine/step_gate.h"

namespace nereus {

class Optimizer {
 public:
  struct Options {
    bool decoupled = true;  // AdamW; false: Adam
    double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
    double max_norm = 1.0;
  };

  // The engine's overflows are told to this optimizer's gate from here on.
  Optimizer(Stream&, Engine&, const Options&);

  // Enqueues the update of step `step` (from 1) with learning rate `lr`, and closes the step.
  void update(int64_t step, double lr);

  StepGate& gate() { return gate_; }
  TensorView loss() const { return gate_.loss(); }  // f32 [1], written by the executor

 private:
  Stream& stream_;
  Engine& engine_;
  Options options_;
  StepGate gate_;
};

}  // namespace nereus
