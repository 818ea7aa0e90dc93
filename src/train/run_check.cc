#include "train/run_check.h"

#include "engine/engine_options.h"
#include "pipeline/simulator.h"

namespace nereus {

RunCheck check_run(const JobConfig& config, int64_t world) {
  const ModelArgs args = training_model_args(config);
  RunCheck out{.args = args, .layout = run_layout(config, args, world)};
  Stream meta(Device::meta());
  std::vector<RankMemory> ranks = memory_of_pipeline(config, out.args, out.layout, meta);
  const RankMemory& most = largest(ranks);
  out.rank = most.rank;
  out.memory = most.table;
  const Schedule& schedule = out.layout.pipeline.schedule;
  if (schedule.stages() > 1) out.bubble = simulate(schedule, StageCosts{}).bubble;
  out.data = data_facts(config, out.args);
  out.checkpoints = checkpoint_facts(config, out.args, world);
  return out;
}

}  // namespace nereus
