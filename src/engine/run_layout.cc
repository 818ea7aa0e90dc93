#include "engine/run_layout.h"

#include <algorithm>

#include "base/check.h"
#include "pipeline/schedule_csv.h"
#include "pipeline/simulator.h"
#include "pipeline/stage_split.h"

namespace nereus {
namespace {

Pipeline one_stage(int64_t layers, int microbatches) {
  return {.parts = {{.first_block = 0, .end_block = layers}},
          .schedule = sequential_schedule(microbatches)};
}

Schedule schedule(const JobConfig::Parallelism& p, int64_t layers, int microbatches) {
  const auto ranks = static_cast<int>(p.pipeline_parallel_degree);
  if (!p.pipeline_parallel_schedule_csv.empty())
    return read_schedule_csv(p.pipeline_parallel_schedule_csv, ranks);
  const std::string name = canonical_schedule_name(p.pipeline_parallel_schedule);
  return make_schedule(name, ranks, stages_per_rank(p, name, layers), microbatches,
                       static_cast<int>(p.pipeline_parallel_pending_wgrads));
}

}  // namespace

bool reshards(const JobConfig& c) {
  const ReshardPolicy policy = c.parallelism.fsdp_reshard_after_forward;
  return policy == ReshardPolicy::always ||
         (policy == ReshardPolicy::automatic && c.parallelism.pipeline_parallel_degree == 1);
}

RunLayout run_layout(const JobConfig& c, const ModelArgs& args, int64_t ranks) {
  RunLayout out{.mesh = Mesh(mesh_degrees(c), ranks)};
  check_fits(out.mesh, args, c.training.seq_len);
  const auto& p = c.parallelism;
  const int64_t dp = out.mesh.size(MeshGroup::dp);
  const bool pipelined = p.pipeline_parallel_degree > 1;
  out.global_batch = c.global_batch(dp);
  out.local_rows = out.global_batch / dp;
  out.microbatch_rows =
      pipelined ? p.pipeline_parallel_microbatch_size : c.training.local_batch_size;
  if (pipelined) pipeline_microbatches(c.training.local_batch_size, out.microbatch_rows);
  out.microbatches = static_cast<int>(out.local_rows / out.microbatch_rows);
  if (!pipelined) {
    out.pipeline = one_stage(args.n_layers, out.microbatches);
    return out;
  }
  Schedule made = schedule(p, args.n_layers, out.microbatches);
  NEREUS_CHECK(kConfig, made.microbatches == out.microbatches,
               "parallelism.pipeline_parallel_schedule_csv = {}: it is for {} microbatches, and a "
               "step of this run has {}: {} rows of a data-parallel rank in microbatches of {}.",
               p.pipeline_parallel_schedule_csv, made.microbatches, out.microbatches,
               out.local_rows, out.microbatch_rows);
  out.warning = few_microbatches_warning(out.microbatches, made.stages(),
                                         simulate(made, StageCosts{}).bubble);
  const auto apart = [](const std::vector<Action>& actions) {
    return std::any_of(actions.begin(), actions.end(),
                       [](const Action& a) { return a.kind == Action::Kind::backward_input; });
  };
  NEREUS_CHECK(
      kConfig,
      !p.reduce_each_microbatch || std::none_of(made.actions.begin(), made.actions.end(), apart),
      "parallelism.reduce_each_microbatch with schedule {}: it has dgrad and wgrad of a "
      "microbatch apart, and gradients are reduced when both are done at once.\n  Use "
      "1F1B, Interleaved1F1B, GPipe or LoopedBFS, or leave it out.",
      made.name);
  out.pipeline.parts = split_model(p, args.n_layers, made.stages());
  out.pipeline.schedule = std::move(made);
  return out;
}

}  // namespace nereus
