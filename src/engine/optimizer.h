// The update at the end of a step: gradient norm, clipping, expert-bias update, Adam or AdamW. All
// of it stays on the device, and happens unless the step is skipped (engine/step_status.h).
#pragma once

#include "engine/engine.h"
#include "engine/step_status.h"

namespace nereus {

class Optimizer {
 public:
  struct Options {
    bool decoupled = true;  // AdamW; false: Adam
    double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
    double max_norm = 1.0;
  };

  // From here on the engine reports overflows to this optimizer's step status.
  Optimizer(Stream&, Engine&, const Options&);

  // Enqueues the update of step `step` (from 1) with learning rate `lr`, and closes the step.
  // Without `changes` it is closed, and no weight, state or bias of experts changes.
  void update(int64_t step, double lr, bool changes = true);

  StepStatus& status() { return status_; }
  TensorView loss() const { return status_.loss(); }  // f32 [1], written by the executor

 private:
  Stream& stream_;
  Engine& engine_;
  Options options_;
  StepStatus status_;
};

}  // namespace nereus
