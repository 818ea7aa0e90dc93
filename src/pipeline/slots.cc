#include "pipeline/slots.h"

#include <algorithm>

#include "base/check.h"

namespace nereus {
namespace {

constexpr int kFree = -1;

}  // namespace

int Slots::take(int microbatch) {
  NEREUS_CHECK(kContract, std::find(owner_.begin(), owner_.end(), microbatch) == owner_.end(),
               "microbatch {} has a slot already", microbatch);
  auto it = std::find(owner_.begin(), owner_.end(), kFree);
  if (it == owner_.end()) it = owner_.insert(it, kFree);
  *it = microbatch;
  return static_cast<int>(it - owner_.begin());
}

int Slots::of(int microbatch) const {
  const auto it = std::find(owner_.begin(), owner_.end(), microbatch);
  NEREUS_CHECK(kContract, it != owner_.end(), "microbatch {} has no slot", microbatch);
  return static_cast<int>(it - owner_.begin());
}

void Slots::release(int microbatch) { owner_[static_cast<size_t>(of(microbatch))] = kFree; }

void PostedReceives::post(const Action& recv) { posted_.push_back(recv); }

void PostedReceives::complete(const Action& wait, FunctionRef<void(const Edge&)> receive) {
  const Edge last = edge_of(wait);
  const auto is_last = [&last](const Action& recv) { return edge_of(recv) == last; };
  if (std::none_of(posted_.begin(), posted_.end(), is_last)) return;
  for (auto it = posted_.begin();;) {
    if (it->peer != wait.peer) {
      ++it;
      continue;
    }
    const Edge edge = edge_of(*it);
    it = posted_.erase(it);
    receive(edge);
    if (edge == last) return;
  }
}

std::vector<int> slots_needed(const std::vector<Action>& actions,
                              const std::vector<int>& rank_of_stage) {
  const auto stages = static_cast<int>(rank_of_stage.size());
  std::vector<Slots> slots(rank_of_stage.size());
  const auto at = [&](int stage) -> Slots& { return slots[static_cast<size_t>(stage)]; };
  const auto rank_of = [&](int stage) { return rank_of_stage[static_cast<size_t>(stage)]; };
  const auto arrive = [&](const Edge& e) {
    if (e.kind == Edge::Kind::activation) at(e.consumer).take(e.microbatch);
  };
  PostedReceives receives;
  for (const Action& a : actions) {
    if (a.kind == Action::Kind::recv) receives.post(a);
    if (a.kind == Action::Kind::wait) receives.complete(a, arrive);
    if (a.has_forward() && a.stage == 0) at(0).take(a.microbatch);
    for (const Edge& e : edges_produced(a, stages))
      if (rank_of(e.consumer) == rank_of(e.producer())) arrive(e);
    if (a.has_wgrad()) at(a.dgrad_stage()).release(a.dgrad_microbatch());
  }
  std::vector<int> out;
  for (const Slots& s : slots) out.push_back(s.most());
  return out;
}

}  // namespace nereus
