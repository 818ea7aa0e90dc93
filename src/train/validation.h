// The loss on held-out rows, before, during and after training.
#pragma once

#include <optional>
#include <vector>

#include "config/job_config.h"
#include "data/loader.h"
#include "engine/run_layout.h"
#include "engine/step_runner.h"
#include "train/run_data.h"
#include "train/run_report.h"

namespace nereus {

class Validation {
 public:
  // This rank is data-parallel rank `dp_rank`. Where validation.enable is set the rows of the set
  // ([validation]'s where none is given) are read, once for all validations. Throws Error{kConfig}
  // when they cannot be, or have no label that counts. The references must outlive this. `about`:
  // see validation_rows().
  Validation(const JobConfig&, const ModelArgs&, const RunLayout&, int dp_rank,
             const std::optional<DataSet>& set = std::nullopt, RunData* about = nullptr);

  bool enabled() const { return config_.validation.enable; }
  bool due(int64_t step) const;  // after this step
  // All steps up to `step` (0: before the first) are confirmed. Tells the report's sinks of the
  // mean loss. All ranks call it.
  void run(int64_t step, StepRunner&, RunReport&);
  // The mean loss of the labels that count. All ranks call it, with all steps confirmed; `step` is
  // for messages.
  double loss(int64_t step, StepRunner&) const;

  // Of all ranks: tokens, and labels that are not ignored.
  int64_t tokens() const { return tokens_; }
  int64_t labels() const { return counted_; }
  // What first() was in an earlier part of the run.
  void go_on_from(std::optional<double> first) { first_ = first; }
  std::optional<double> first() const { return first_; }  // loss before training
  double last() const { return last_; }
  int64_t last_step() const { return last_step_; }  // after which last() is; 0: before the first

 private:
  const JobConfig& config_;
  int64_t first_row_, rows_apart_;    // of this rank's batches, in the set
  std::vector<data::Batch> batches_;  // this rank's, as many on every rank
  int64_t tokens_ = 0, counted_ = 0;
  std::optional<double> first_;
  double last_ = 0;
  int64_t last_step_ = 0;
};

}  // namespace nereus
