// Runs a schedule on paper: each rank does its actions in order, each as soon as what it waits for
// is there. So it proves that a schedule ends, and computes how long it takes, how much of that the
// ranks are idle, and how many activations they hold.
#pragma once

#include <string>
#include <vector>

#include "pipeline/schedule.h"

namespace nereus {

// Of one stage and one microbatch, in any unit of time.
struct StageCosts {
  double forward = 1, dgrad = 1, wgrad = 1;
  double head = 0;      // more forward on the last stage: the loss, with the head's own gradients
  double transfer = 0;  // from a send to when its receiver has it
};

struct Simulation {
  struct Span {
    double begin = 0, end = 0;
  };
  struct Rank {
    double busy = 0;
    // Most microbatches at once whose activations of a stage are held until dgrad, until wgrad,
    // summed over the rank's stages: divided by the stages a rank, in microbatches of all its
    // blocks.
    int held_for_dgrad = 0, held_for_wgrad = 0;
    int receiving = 0;  // most edges asked for and not yet used
  };

  double makespan = 0;
  double bubble = 0;  // idle share of all ranks' time
  std::vector<Rank> ranks;
  std::vector<std::vector<Span>> spans;  // by rank, by action
  std::vector<std::string> stuck;        // where each rank waits for ever; empty: it ends

  // The largest over ranks, in microbatches of a rank's blocks.
  double peak_activations(int stages_per_rank) const;
};

// `schedule` with its communication. What is sent between two ranks arrives in order; a receive
// that meets another message than it asked for is stuck, and says so.
Simulation simulate(const Schedule& schedule, const StageCosts& costs);

}  // namespace nereus
