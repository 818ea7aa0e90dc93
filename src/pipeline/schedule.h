// A step of one rank as a list of actions: made by pure functions, run by one executor that knows
// no schedule's name.
#pragma once

#include <vector>

namespace nereus {

struct Action {
  enum class Kind {
    gather,    // the weights of `stage`, before its first use in the step
    forward,   // F: of `microbatch`
    backward,  // B: dgrad then wgrad of `microbatch`, block by block
    reduce,    // the gradients of `stage`, after its last backward
    update,    // the optimizer
  };
  Kind kind;
  int stage = 0;
  int microbatch = 0;
};

// One stage on one rank: each microbatch forward and backward in turn.
std::vector<Action> sequential_schedule(int microbatches);

// How many microbatches are between their forward and their backward at once, at most.
int microbatches_in_flight(const std::vector<Action>&);

}  // namespace nereus
