// The loss on held-out rows, before, during and after training.
#pragma once

#include "config/job_config.h"
#include "engine/run_layout.h"
#include "engine/step_runner.h"
#include "train/run_report.h"

namespace nereus {

class Validation {
 public:
  // This rank is data-parallel rank `dp_rank`. The references must outlive this.
  Validation(const JobConfig&, const ModelArgs&, const RunLayout&, int dp_rank, StepRunner&,
             RunReport&);

  bool enabled() const { return config_.validation.enable; }
  bool due(int64_t step) const;  // after this step
  // All steps up to `step` (0: before the first) are confirmed. Reads validation.dataset from its
  // start, and tells the report's sinks of the mean loss. All ranks call it.
  void run(int64_t step);

  double first() const { return first_; }  // loss before training
  double last() const { return last_; }

 private:
  const JobConfig& config_;
  const ModelArgs& args_;
  const RunLayout& layout_;
  int dp_rank_;
  StepRunner& runner_;
  RunReport& report_;
  double first_ = 0, last_ = 0;
};

}  // namespace nereus
