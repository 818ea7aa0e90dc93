#include "train/run_check.h"

#include "engine/engine_options.h"
#include "pipeline/simulator.h"

namespace nereus {

RunCheck check_run(const JobConfig& config, int64_t world) {
  const ModelArgs args = training_model_args(config);
  RunCheck out{.args = args, .layout = run_layout(config, args, world)};
  Stream meta(Device::meta());
  // Ranks of one place in the pipeline need the same.
  const auto places = config.parallelism.pipeline_parallel_degree;
  for (int64_t place = 0; place < places; ++place) {
    const int rank = static_cast<int>(place * (world / places));
    MemoryTable table = memory_table(config, out.args, out.layout, rank, meta);
    if (place > 0 && table.total() <= out.memory.total()) continue;
    out.rank = rank;
    out.memory = std::move(table);
  }
  const Schedule& schedule = out.layout.pipeline.schedule;
  if (schedule.stages() > 1) out.bubble = simulate(schedule, StageCosts{}).bubble;
  out.data = data_facts(config, out.args);
  return out;
}

}  // namespace nereus
