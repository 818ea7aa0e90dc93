// Where what a rank's microbatches in flight leave on its stages lies, in one block of memory: for
// each microbatch of a stage the edges that arrive and what its passes keep for one another. When
// each of them comes and goes follows from the rank's list of actions, so that places are given
// before the first step, and what is never there at once has the same place.
//
//   item        from                                     to the end of
//   input       the activation's arrival                 dgrad (B or I)
//   gradient    the output gradient's arrival            wgrad (B or W)
//   for_dgrad   forward                                  dgrad; wgrad where nothing is for_wgrad
//   for_wgrad   forward                                  wgrad
//   pending     dgrad, of stages that have it apart      wgrad
//
// What a stage makes for another stage of the rank arrives before the action begins that makes it.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "pipeline/schedule.h"

namespace nereus {

struct StageMemory {
  enum Item { input, gradient, for_dgrad, for_wgrad, pending, kItems };
  // Bytes of each; 0: there is none.
  std::array<int64_t, kItems> bytes{};
};

class MemoryPlan {
 public:
  MemoryPlan() = default;
  // `actions` of a rank with their communication; `stages` by number in the pipeline, those of
  // other ranks without bytes. Without `backward` microbatch 0 alone goes forward, stage by stage,
  // and leaves nothing.
  MemoryPlan(const std::vector<Action>& actions, const std::vector<int>& rank_of_stage,
             const std::vector<StageMemory>& stages, bool backward = true);

  // In bytes from the block's start, a multiple of Arena::kAlignment.
  int64_t place(int stage, int microbatch, StageMemory::Item) const;
  int64_t bytes() const { return bytes_; }  // of the block
  // The most that is there at once: no plan could have less than that.
  int64_t held() const { return held_; }
  // Most microbatches at once that have the item on the stage.
  int most(int stage, StageMemory::Item) const;

 private:
  size_t index(int stage, int microbatch, StageMemory::Item) const;

  size_t stages_ = 0;
  std::vector<int64_t> places_;  // by microbatch, stage and item; -1: there is none
  std::vector<int> most_;        // by stage and item
  int64_t bytes_ = 0, held_ = 0;
};

}  // namespace nereus
