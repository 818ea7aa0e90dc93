#include "plan/pipeline_plan.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "pipeline/schedule_csv.h"
#include "pipeline/stage_split.h"

namespace nereus {
namespace {

constexpr int64_t kMostActions = 2'000'000;

StageCosts of_a_stage(StageCosts costs, int stages_per_rank) {
  costs.forward /= stages_per_rank;
  costs.dgrad /= stages_per_rank;
  costs.wgrad /= stages_per_rank;
  return costs;
}

void check_costs(const StageCosts& c) {
  struct Cost {
    const char* name;
    double value;
  };
  for (const Cost& cost :
       {Cost{"--forward", c.forward}, Cost{"--dgrad", c.dgrad}, Cost{"--wgrad", c.wgrad},
        Cost{"--head", c.head}, Cost{"--transfer", c.transfer}})
    NEREUS_CHECK(kConfig, std::isfinite(cost.value) && cost.value >= 0,
                 "{} {}: a time is needed, 0 or more.", cost.name, cost.value);
  NEREUS_CHECK(kConfig, c.forward > 0 && c.dgrad + c.wgrad > 0,
               "--forward {}, --dgrad {}, --wgrad {}: a forward and a backward take time; give at "
               "least --forward and --dgrad.",
               c.forward, c.dgrad, c.wgrad);
}

}  // namespace

PipelinePlan plan_pipeline(const PipelinePlanOptions& o) {
  check_costs(o.costs);
  PipelinePlan plan;
  if (!o.csv.empty()) {
    plan.schedule = read_schedule_csv(o.csv, o.ranks);
    plan.stages_per_rank = 1;
    for (int r = 0; r < o.ranks; ++r)
      plan.stages_per_rank =
          std::max(plan.stages_per_rank, static_cast<int>(plan.schedule.stages_of(r).size()));
  } else {
    const std::string name = canonical_schedule_name(o.schedule);
    plan.stages_per_rank = o.stages_per_rank.value_or(is_single_stage(name) ? 1 : 2);
    const int64_t actions =
        int64_t{3} * o.ranks * std::max(plan.stages_per_rank, 1) * o.microbatches;
    NEREUS_CHECK(
        kConfig, actions <= kMostActions,
        "--pp {} with {} stages a rank and --microbatches {} are {} actions, more than {}: "
        "ask for fewer microbatches; the bubble changes with 1 / microbatches.",
        o.ranks, plan.stages_per_rank, o.microbatches, actions, kMostActions);
  }
  const int stages = o.csv.empty() ? o.ranks * plan.stages_per_rank : plan.schedule.stages();
  if (o.blocks > 0) {
    NEREUS_CHECK(
        kConfig, stages <= o.blocks + o.first_less + o.last_less,
        "Number of stages ({}) cannot be greater than effective layers ({})\n  --pp {} with "
        "{} stages a rank, --blocks {}, --first-less {}, --last-less {}.\n  Use at most "
        "{} stages.",
        stages, o.blocks + o.first_less + o.last_less, o.ranks, plan.stages_per_rank, o.blocks,
        o.first_less, o.last_less, o.blocks + o.first_less + o.last_less);
    plan.parts = split_layers(o.blocks, stages, o.first_less, o.last_less);
  }
  if (o.csv.empty())
    plan.schedule = make_schedule(o.schedule, o.ranks, plan.stages_per_rank, o.microbatches);
  plan.simulation = simulate(plan.schedule, of_a_stage(o.costs, plan.stages_per_rank));
  NEREUS_CHECK(kContract, plan.simulation.stuck.empty(), "{} waits for ever:\n  {}",
               plan.schedule.name, fmt::join(plan.simulation.stuck, "\n  "));
  plan.warning =
      few_microbatches_warning(plan.schedule.microbatches, stages, plan.simulation.bubble);
  return plan;
}

}  // namespace nereus
