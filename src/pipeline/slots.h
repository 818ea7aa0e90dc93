// Which memory of a stage a microbatch has, from the arrival of its input to its last wgrad.
#pragma once

#include <deque>
#include <vector>

#include "pipeline/schedule.h"

namespace nereus {

// The slots of one stage, handed out lowest first.
class Slots {
 public:
  static constexpr int kNone = -1;

  int take(int microbatch);      // its slot; the one it has already, if it has one
  int of(int microbatch) const;  // kNone: it has none
  void release(int microbatch);
  int most() const { return static_cast<int>(owner_.size()); }  // ever taken at once

 private:
  std::vector<int> owner_;  // microbatch by slot; kNone: free
};

// What a rank's list asks of its stages: computations and edges that arrive, in the order in which
// they happen. `rank_of_stage` by stage. An edge between two stages of the rank arrives when it is
// made; one from another rank with the first `wait` for it or for a later one of that peer.
class EdgeOrder {
 public:
  // The edges that `wait` brings, in the order in which the peer sends them.
  void posted(const Action& recv) { posted_.push_back(recv); }
  std::vector<Action> arriving(const Action& wait);

 private:
  std::deque<Action> posted_;
};

// How many slots each of `stages` stages needs for these actions: 0 for one of another rank.
std::vector<int> slots_needed(const std::vector<Action>& actions,
                              const std::vector<int>& rank_of_stage);

}  // namespace nereus
