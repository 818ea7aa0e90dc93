#include "train/validation.h"

#include <chrono>

#include "base/check.h"
#include "train/run_data.h"

namespace nereus {

Validation::Validation(const JobConfig& config, const ModelArgs& args, const RunLayout& layout,
                       int dp_rank)
    : config_(config),
      first_row_(dp_rank * layout.microbatch_rows),
      rows_apart_(layout.mesh.size(MeshGroup::dp) * layout.microbatch_rows) {
  if (!enabled()) return;
  const int dp_size = layout.mesh.size(MeshGroup::dp);
  std::vector<data::Batch> all = validation_batches(config, args, layout.microbatch_rows, dp_size);
  for (const data::Batch& b : all) {
    tokens_ += b.rows * config.training.seq_len;
    for (const int32_t label : b.labels) counted_ += label >= 0;
  }
  NEREUS_CHECK(kConfig, counted_ > 0,
               "validation.dataset_path = {}: each of the {} labels to be read is -100, which is "
               "ignored: there is no loss without one. Give the set labels, or more rows "
               "(validation.steps).",
               config.validation.dataset_path.value_or(""), tokens_);
  // As many on every data-parallel rank: all of them enter the same collectives.
  for (auto i = static_cast<size_t>(dp_rank); i < all.size(); i += static_cast<size_t>(dp_size))
    batches_.push_back(std::move(all[i]));
}

bool Validation::due(int64_t step) const {
  return enabled() && (step % config_.validation.freq == 0 || step == config_.training.steps);
}

void Validation::run(int64_t step, StepRunner& runner, RunReport& report) {
  const auto begin = std::chrono::steady_clock::now();
  std::vector<HostMicrobatch> mine;
  for (const data::Batch& b : batches_)
    mine.push_back({.ids = b.inputs,
                    .labels = b.labels,
                    .first_row = first_row_ + static_cast<int64_t>(mine.size()) * rows_apart_});
  last_ = static_cast<double>(runner.evaluate(mine, static_cast<double>(counted_), step));
  last_step_ = step;
  if (step == 0) first_ = last_;
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  report.validation(step, last_, runner.highest(), tokens_, seconds.count());
}

}  // namespace nereus
