#include "train/validation.h"

#include <chrono>

#include "train/run_data.h"

namespace nereus {

Validation::Validation(const JobConfig& config, const ModelArgs& args, const RunLayout& layout,
                       int dp_rank, StepRunner& runner, RunReport& report)
    : config_(config),
      args_(args),
      layout_(layout),
      dp_rank_(dp_rank),
      runner_(runner),
      report_(report) {}

bool Validation::due(int64_t step) const {
  return enabled() && (step % config_.validation.freq == 0 || step == config_.training.steps);
}

void Validation::run(int64_t step) {
  const auto begin = std::chrono::steady_clock::now();
  const int dp_size = layout_.mesh.size(MeshGroup::dp);
  const std::vector<data::Batch> batches =
      validation_batches(config_, args_, layout_.microbatch_rows, dp_size);
  int64_t counted = 0;
  for (const data::Batch& b : batches)
    for (const int32_t label : b.labels) counted += label >= 0;
  // As many on every data-parallel rank: they meet in collectives.
  std::vector<HostMicrobatch> mine;
  for (auto i = static_cast<size_t>(dp_rank_); i < batches.size();
       i += static_cast<size_t>(dp_size))
    mine.push_back({.ids = batches[i].inputs, .labels = batches[i].labels});
  last_ = static_cast<double>(runner_.evaluate(mine, static_cast<double>(counted), step));
  if (step == 0) first_ = last_;
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  report_.validation(step, last_, counted, seconds.count());
}

}  // namespace nereus
