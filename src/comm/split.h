// Which ranks a split puts together: one rule for all backends.
#pragma once

#include <span>
#include <vector>

namespace nereus {

struct SplitChoice {
  int color = -1, key = 0;
};

// A part of a group: its ranks with one color, by key and then by rank.
struct Part {
  std::vector<int> members;  // their ranks in the world, by rank in the part
  int rank = -1;             // this one's in the part
};

// The part of rank `me`, given what each rank of the group chose and the group's ranks in the
// world. Empty for color -1.
Part part_of(std::span<const SplitChoice> choices, int me, std::span<const int> members);

}  // namespace nereus
