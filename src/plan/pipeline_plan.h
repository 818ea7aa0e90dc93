// A pipeline before it is run: its schedule, what that costs in idle time and activations, and how
// it looks. No device: runs on a laptop.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "model/stage.h"
#include "pipeline/schedule.h"
#include "pipeline/simulator.h"

namespace nereus {

struct PipelinePlanOptions {
  std::string schedule = "1F1B";
  std::string csv;  // a table of actions instead of a schedule by name
  int ranks = 1, microbatches = 1;
  std::optional<int> stages_per_rank;  // default: 1 or 2, as the schedule has it
  // Of one microbatch through all blocks of a rank, in any unit; a stage has its share of them.
  StageCosts costs;
  // 0: not given. Else the model's blocks are cut into the stages.
  int64_t blocks = 0, first_less = 1, last_less = 1;
};

struct PipelinePlan {
  Schedule schedule;
  int stages_per_rank = 1;
  Simulation simulation;
  std::vector<Stage::Part> parts;  // by stage; empty without blocks
  std::string warning;             // too few microbatches, with the bubble that costs; or ""
};

// Throws Error{kConfig}: one message with the numbers, the rule and the remedy.
PipelinePlan plan_pipeline(const PipelinePlanOptions&);

// The schedule over time, a line a rank, and a table of idle time and activations. `columns`: of
// the drawing, at most.
std::string text_of(const PipelinePlan&, const PipelinePlanOptions&, int columns);
// The same as a picture. Throws Error{kConfig} when it would have more than 100,000 bars.
std::string svg_of(const PipelinePlan&, const PipelinePlanOptions&);

}  // namespace nereus
