#include "pipeline/slots.h"

#include <algorithm>

#include "base/check.h"

namespace nereus {

int Slots::of(int microbatch) const {
  const auto it = std::find(owner_.begin(), owner_.end(), microbatch);
  return it == owner_.end() ? kNone : static_cast<int>(it - owner_.begin());
}

int Slots::take(int microbatch) {
  if (const int mine = of(microbatch); mine != kNone) return mine;
  auto it = std::find(owner_.begin(), owner_.end(), kNone);
  if (it == owner_.end()) it = owner_.insert(it, kNone);
  *it = microbatch;
  return static_cast<int>(it - owner_.begin());
}

void Slots::release(int microbatch) {
  const int slot = of(microbatch);
  NEREUS_CHECK(kContract, slot != kNone, "microbatch {} has no slot", microbatch);
  owner_[static_cast<size_t>(slot)] = kNone;
}

std::vector<Action> EdgeOrder::arriving(const Action& wait) {
  std::vector<Action> out;
  const auto is = [&wait](const Action& a) {
    return a.stage == wait.stage && a.microbatch == wait.microbatch && a.edge == wait.edge;
  };
  if (std::none_of(posted_.begin(), posted_.end(), is)) return out;  // came with a later one
  for (auto it = posted_.begin();;) {
    if (it->peer != wait.peer) {
      ++it;
      continue;
    }
    out.push_back(*it);
    it = posted_.erase(it);
    if (is(out.back())) return out;
  }
}

std::vector<int> slots_needed(const std::vector<Action>& actions,
                              const std::vector<int>& rank_of_stage) {
  std::vector<Slots> slots(rank_of_stage.size());
  const auto at = [&](int stage) -> Slots& { return slots[static_cast<size_t>(stage)]; };
  const auto same_rank = [&](int stage, int other) {
    return other < static_cast<int>(rank_of_stage.size()) &&
           rank_of_stage[static_cast<size_t>(stage)] == rank_of_stage[static_cast<size_t>(other)];
  };
  EdgeOrder order;
  for (const Action& a : actions) {
    if (a.kind == Action::Kind::recv) order.posted(a);
    if (a.kind == Action::Kind::wait)
      for (const Action& edge : order.arriving(a)) at(edge.stage).take(edge.microbatch);
    if (a.has_forward()) {
      at(a.stage).take(a.microbatch);
      if (same_rank(a.stage, a.stage + 1)) at(a.stage + 1).take(a.microbatch);
    }
    if (a.has_wgrad()) at(a.dgrad_stage()).release(a.dgrad_microbatch());
  }
  std::vector<int> out;
  for (const Slots& s : slots) out.push_back(s.most());
  return out;
}

}  // namespace nereus
