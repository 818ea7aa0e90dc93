// A step as lists of actions, one list a rank: made by pure functions, checked by the simulator,
// run by one executor that knows no schedule's name.
//
// A pipeline of p ranks has S stages (runs of blocks), one or more on each rank, and m
// microbatches. Stage s gets its input from stage s - 1 and the gradient of its output from stage
// s + 1; what crosses ranks is an edge, sent once and received once.
#pragma once

#include <string>
#include <vector>

#include "pipeline/edges.h"

namespace nereus {

struct Action {
  enum class Kind {
    gather,            // the weights of `stage`, before its first use in the step
    forward,           // F: of `microbatch`
    backward,          // B: dgrad then wgrad of `microbatch`, block by block
    backward_input,    // I: dgrad alone: what the stage before waits for
    backward_weight,   // W: wgrad alone, any time after I
    forward_backward,  // FB: F of one microbatch, then B of another; nothing runs in parallel yet
    send,              // SendAsync: an edge to another rank; does not wait for the receiver
    recv,              // RecvAsync: its memory is ready from here on; does not wait for the sender
    wait,              // Wait: for what `recv` asked for
    reduce,            // the gradients of `stage`, after its last wgrad
    update,            // the optimizer
  };

  Kind kind;
  int stage = 0;       // on this rank: of a send the stage that made it, of recv and wait its user
  int microbatch = 0;  // of FB: the forward's
  Edge::Kind edge = Edge::Kind::activation;           // of send, recv, wait
  int peer = -1;                                      // of send, recv, wait: the other rank
  int backward_stage = -1, backward_microbatch = -1;  // of FB
  bool operator==(const Action&) const = default;

  // The parts of an action that compute: FB is F and B.
  bool has_forward() const { return kind == Kind::forward || kind == Kind::forward_backward; }
  bool has_dgrad() const {
    return kind == Kind::backward || kind == Kind::backward_input || kind == Kind::forward_backward;
  }
  bool has_wgrad() const {
    return kind == Kind::backward || kind == Kind::backward_weight ||
           kind == Kind::forward_backward;
  }
  bool computes() const { return has_forward() || has_dgrad() || has_wgrad(); }
  int dgrad_stage() const { return kind == Kind::forward_backward ? backward_stage : stage; }
  int dgrad_microbatch() const {
    return kind == Kind::forward_backward ? backward_microbatch : microbatch;
  }
  // The two halves of an FB.
  Action forward_half() const {
    return {.kind = Kind::forward, .stage = stage, .microbatch = microbatch};
  }
  Action backward_half() const {
    return {.kind = Kind::backward, .stage = backward_stage, .microbatch = backward_microbatch};
  }

  // As in a CSV of actions: 2F1, (0F3;3B0)OVERLAP_F_B, 1SEND_F2, 0UNSHARD.
  std::string to_string() const;
};

struct Schedule {
  std::string name = {};
  int microbatches = 1;
  std::vector<int> rank_of_stage = {};            // S of them
  std::vector<std::vector<Action>> actions = {};  // by rank

  int ranks() const { return static_cast<int>(actions.size()); }
  int stages() const { return static_cast<int>(rank_of_stage.size()); }
  std::vector<int> stages_of(int rank) const;  // ascending
};

// One stage on one rank: each microbatch forward and backward in turn. It has no name.
Schedule sequential_schedule(int microbatches);

// A schedule of the table in schedules.cc, with its communication. Throws Error{kConfig} for an
// unknown name, and for a number of stages or microbatches that the schedule cannot have.
// `pending_wgrads`: of a schedule with dgrad and wgrad apart, how many wgrads of a rank may wait at
// once; -1: as many as it has.
Schedule make_schedule(const std::string& name, int ranks, int stages_per_rank, int microbatches,
                       int pending_wgrads = -1);

// The names of the table, in its order and spelling. Wherever a name is asked for, any case will
// do.
std::vector<std::string> schedule_names();
// In that spelling. Throws Error{kConfig} that lists all.
std::string canonical_schedule_name(const std::string& name);
// Does the schedule have one stage on each rank? False for a name that is not in the table.
bool is_single_stage(const std::string& name);

// Adds to lists of F, B, I, W and FB what they need: gather before a stage's first use, sends right
// after an edge is made, receives an action ahead of its user and in the sender's order, reduce
// after a stage's last wgrad, and the update.
void add_communication(Schedule&);

// "" when the lists are a step: on each stage, and on its rank alone, each microbatch's F once,
// then its dgrad once, then its wgrad once. Otherwise what is wrong.
std::string violation(const Schedule&);

// How many microbatches are between their forward and the end of their backward at once, at most.
int microbatches_in_flight(const std::vector<Action>&);

}  // namespace nereus
