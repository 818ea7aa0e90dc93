#include "train/validation.h"

#include <chrono>

#include "base/check.h"
#include "train/run_data.h"

namespace nereus {

Validation::Validation(const JobConfig& config, const ModelArgs& args, const RunLayout& layout,
                       int dp_rank, const std::optional<DataSet>& set, RunData* about)
    : config_(config),
      first_row_(dp_rank * layout.microbatch_rows),
      rows_apart_(layout.mesh.size(MeshGroup::dp) * layout.microbatch_rows) {
  if (!enabled()) return;
  const DataSet read = set ? *set : validation_set(config);
  ValidationRows rows = validation_rows(config, args, read, layout.microbatch_rows, dp_rank,
                                        layout.mesh.size(MeshGroup::dp), about);
  batches_ = std::move(rows.mine);
  tokens_ = rows.tokens;
  counted_ = rows.counted;
  NEREUS_CHECK(kConfig, counted_ > 0,
               "{} = {}: each of the {} labels to be read is -100, which is "
               "ignored: there is no loss without one. Give the set labels, or more rows "
               "(validation.steps).",
               read.path_key(), read.path, tokens_);
}

bool Validation::due(int64_t step) const {
  return enabled() && (step % config_.validation.freq == 0 || step == config_.training.steps);
}

double Validation::loss(int64_t step, StepRunner& runner) const {
  std::vector<HostMicrobatch> mine;
  for (const data::Batch& b : batches_)
    mine.push_back({.ids = b.inputs,
                    .labels = b.labels,
                    .first_row = first_row_ + static_cast<int64_t>(mine.size()) * rows_apart_});
  return static_cast<double>(runner.evaluate(mine, static_cast<double>(counted_), step));
}

void Validation::run(int64_t step, StepRunner& runner, RunReport& report) {
  const auto begin = std::chrono::steady_clock::now();
  last_ = loss(step, runner);
  last_step_ = step;
  if (!first_) first_ = last_;
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  report.validation(step, last_, runner.highest(), tokens_, seconds.count());
}

}  // namespace nereus
