// Which memory of a stage a microbatch has, from the arrival of its input to its last wgrad.
//
// The first stage's input is the tokens, which are there: its microbatch takes a slot with its
// forward. On every other stage the activation is the first to arrive, and takes the slot.
#pragma once

#include <vector>

#include "device/thread_pool.h"
#include "pipeline/schedule.h"

namespace nereus {

// The slots of one stage, handed out lowest first. Throws Error{kContract} for a microbatch that
// takes a second one, and for one that has none where it must.
class Slots {
 public:
  int take(int microbatch);
  int of(int microbatch) const;
  void release(int microbatch);
  bool taken(int slot) const { return owner_[static_cast<size_t>(slot)] >= 0; }
  int most() const { return static_cast<int>(owner_.size()); }  // ever taken at once

 private:
  std::vector<int> owner_;  // microbatch by slot
};

// The receives that a rank has posted and not done yet. Between two ranks messages keep the order
// in which they were sent, so a `wait` also brings those of the same peer that were sent before.
class PostedReceives {
 public:
  void post(const Action& recv);
  // Calls `receive` with each edge that `wait` brings, in the order of sending; with none when an
  // earlier wait has brought it.
  void complete(const Action& wait, FunctionRef<void(const Edge&)> receive);

 private:
  std::vector<Action> posted_;  // recvs
};

// How many slots each stage needs for a rank's actions: 0 for a stage of another rank.
// `rank_of_stage` by stage.
std::vector<int> slots_needed(const std::vector<Action>& actions,
                              const std::vector<int>& rank_of_stage);

}  // namespace nereus
