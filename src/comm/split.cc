#include "comm/split.h"

#include <algorithm>

namespace nereus {

Part part_of(std::span<const SplitChoice> choices, int me, std::span<const int> members) {
  const auto of = [&](int r) { return choices[static_cast<size_t>(r)]; };
  Part part;
  if (of(me).color < 0) return part;
  std::vector<int> ranks;
  for (int r = 0; r < static_cast<int>(choices.size()); ++r)
    if (of(r).color == of(me).color) ranks.push_back(r);
  std::stable_sort(ranks.begin(), ranks.end(), [&](int a, int b) { return of(a).key < of(b).key; });
  for (const int r : ranks) {
    if (r == me) part.rank = static_cast<int>(part.members.size());
    part.members.push_back(members[static_cast<size_t>(r)]);
  }
  return part;
}

}  // namespace nereus
