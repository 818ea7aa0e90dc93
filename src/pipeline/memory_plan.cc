#include "pipeline/memory_plan.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "pipeline/slots.h"
#include "tensor/arena.h"

namespace nereus {
namespace {

using Item = StageMemory::Item;

// Moments: action i begins at 2i and ends at 2i + 1.
struct Held {
  int64_t bytes = 0;
  int64_t begin = 0, end = -1;  // moments, both included
  size_t index = 0;             // in places
};
using Items = std::vector<Held>;

bool meet(const Held& a, const Held& b) { return a.begin <= b.end && b.begin <= a.end; }

// The lowest place of `bytes` beside `taken` (begin, end in bytes; sorted): the first gap that is
// large enough, or the tightest.
int64_t gap(const std::vector<std::pair<int64_t, int64_t>>& taken, int64_t bytes, bool tightest) {
  int64_t at = 0, best = -1, best_size = 0;
  for (const auto& [begin, end] : taken) {
    if (begin - at >= bytes && (best < 0 || begin - at < best_size)) {
      best = at;
      best_size = begin - at;
      if (!tightest) return best;
    }
    at = std::max(at, end);
  }
  return best >= 0 ? best : at;
}

struct Placing {
  std::vector<int64_t> places;  // by item
  int64_t bytes = 0;
};

// In the given order, each as low as those before it leave it.
Placing place_in_order(const Items& items, const std::vector<size_t>& order, bool tightest) {
  Placing out{.places = std::vector<int64_t>(items.size())};
  std::vector<size_t> placed;  // by place
  std::vector<std::pair<int64_t, int64_t>> taken;
  for (const size_t i : order) {
    taken.clear();
    for (const size_t j : placed)
      if (meet(items[i], items[j]))
        taken.emplace_back(out.places[j], out.places[j] + items[j].bytes);
    out.places[i] = gap(taken, items[i].bytes, tightest);
    out.bytes = std::max(out.bytes, out.places[i] + items[i].bytes);
    placed.insert(
        std::upper_bound(placed.begin(), placed.end(), i,
                         [&](size_t a, size_t b) { return out.places[a] < out.places[b]; }),
        i);
  }
  return out;
}

// As items come, beside those that are there then: for lists that are too long to compare all.
Placing place_as_they_come(const Items& items, const std::vector<size_t>& by_begin) {
  Placing out{.places = std::vector<int64_t>(items.size())};
  std::vector<size_t> live;  // by place
  std::vector<std::pair<int64_t, int64_t>> taken;
  for (const size_t i : by_begin) {
    std::erase_if(live, [&](size_t j) { return items[j].end < items[i].begin; });
    taken.clear();
    for (const size_t j : live) taken.emplace_back(out.places[j], out.places[j] + items[j].bytes);
    out.places[i] = gap(taken, items[i].bytes, true);
    out.bytes = std::max(out.bytes, out.places[i] + items[i].bytes);
    live.insert(std::upper_bound(live.begin(), live.end(), i,
                                 [&](size_t a, size_t b) { return out.places[a] < out.places[b]; }),
                i);
  }
  return out;
}

// The smallest of a few ways.
Placing place(const Items& items) {
  constexpr size_t kCompareAll = 3000;
  std::vector<size_t> by_begin(items.size());
  std::iota(by_begin.begin(), by_begin.end(), 0);
  std::stable_sort(by_begin.begin(), by_begin.end(),
                   [&](size_t a, size_t b) { return items[a].begin < items[b].begin; });
  Placing best = place_as_they_come(items, by_begin);
  if (items.size() > kCompareAll) return best;
  std::vector<size_t> by_size = by_begin, by_time = by_begin;
  std::stable_sort(by_size.begin(), by_size.end(),
                   [&](size_t a, size_t b) { return items[a].bytes > items[b].bytes; });
  std::stable_sort(by_time.begin(), by_time.end(), [&](size_t a, size_t b) {
    return items[a].end - items[a].begin > items[b].end - items[b].begin;
  });
  for (const std::vector<size_t>* order : {&by_begin, &by_size, &by_time})
    for (const bool tightest : {false, true}) {
      Placing other = place_in_order(items, *order, tightest);
      if (other.bytes < best.bytes) best = std::move(other);
    }
  return best;
}

// When items come and go, from a rank's list.
class Lives {
 public:
  Lives(const std::vector<StageMemory>& stages, int microbatches)
      : stages_(stages),
        of_(stages.size() * static_cast<size_t>(microbatches) * StageMemory::kItems) {}

  void begin(int stage, int microbatch, Item item, int64_t moment) {
    Held& h = at(stage, microbatch, item);
    h.bytes = stages_[static_cast<size_t>(stage)].bytes[item];
    h.begin = h.end = moment;
  }
  void end(int stage, int microbatch, Item item, int64_t moment) {
    at(stage, microbatch, item).end = moment;
  }
  Items items() {
    Items out;
    for (size_t i = 0; i < of_.size(); ++i) {
      of_[i].index = i;
      if (of_[i].bytes > 0) out.push_back(of_[i]);
    }
    return out;
  }

 private:
  Held& at(int stage, int microbatch, Item item) {
    return of_[(static_cast<size_t>(microbatch) * stages_.size() + static_cast<size_t>(stage)) *
                   StageMemory::kItems +
               item];
  }

  const std::vector<StageMemory>& stages_;
  std::vector<Held> of_;
};

void follow(const std::vector<Action>& actions, const std::vector<int>& rank_of_stage,
            Lives& lives) {
  const auto count = static_cast<int>(rank_of_stage.size());
  const auto rank_of = [&](int stage) { return rank_of_stage[static_cast<size_t>(stage)]; };
  PostedReceives receives;
  for (size_t i = 0; i < actions.size(); ++i) {
    const Action& a = actions[i];
    const auto now = static_cast<int64_t>(2 * i), end = now + 1;
    const auto arrive = [&](const Edge& e) {
      lives.begin(e.consumer, e.microbatch,
                  e.kind == Edge::Kind::activation ? StageMemory::input : StageMemory::gradient,
                  now);
    };
    if (a.kind == Action::Kind::recv) receives.post(a);
    if (a.kind == Action::Kind::wait) receives.complete(a, arrive);
    if (a.has_forward())
      for (const Item item : {StageMemory::for_dgrad, StageMemory::for_wgrad})
        lives.begin(a.stage, a.microbatch, item, now);
    for (const Edge& e : edges_produced(a, count))
      if (rank_of(e.consumer) == rank_of(e.producer())) arrive(e);
    const int s = a.dgrad_stage(), m = a.dgrad_microbatch();
    if (a.has_dgrad()) {
      lives.begin(s, m, StageMemory::pending, now);
      lives.end(s, m, StageMemory::input, end);
      lives.end(s, m, StageMemory::for_dgrad, end);
    }
    if (a.has_wgrad())
      for (const Item item : {StageMemory::gradient, StageMemory::for_wgrad, StageMemory::pending})
        lives.end(s, m, item, end);
  }
}

}  // namespace

MemoryPlan::MemoryPlan(const std::vector<Action>& actions, const std::vector<int>& rank_of_stage,
                       const std::vector<StageMemory>& stages, bool backward)
    : stages_(stages.size()), most_(stages.size() * StageMemory::kItems) {
  int microbatches = 1;
  for (const Action& a : actions)
    if (backward && a.has_forward()) microbatches = std::max(microbatches, a.microbatch + 1);
  std::vector<StageMemory> rounded = stages;
  for (StageMemory& s : rounded)
    for (int64_t& bytes : s.bytes)
      bytes = (bytes + Arena::kAlignment - 1) / Arena::kAlignment * Arena::kAlignment;
  Lives lives(rounded, microbatches);
  if (backward) {
    follow(actions, rank_of_stage, lives);
  } else {
    for (int s = 0; s < static_cast<int>(stages.size()); ++s) {
      lives.begin(s, 0, StageMemory::input, std::max(0, 2 * s - 1));  // with the stage before
      lives.end(s, 0, StageMemory::input, 2 * s + 1);
      for (const Item item : {StageMemory::for_dgrad, StageMemory::for_wgrad}) {
        lives.begin(s, 0, item, 2 * s);
        lives.end(s, 0, item, 2 * s + 1);
      }
    }
  }

  const Items items = lives.items();
  const Placing placing = nereus::place(items);
  bytes_ = placing.bytes;
  places_.assign(stages_ * static_cast<size_t>(microbatches) * StageMemory::kItems, -1);
  for (size_t i = 0; i < items.size(); ++i) places_[items[i].index] = placing.places[i];

  // Moment by moment: what comes, then what goes.
  std::vector<std::pair<int64_t, size_t>> comes, goes;
  for (size_t i = 0; i < items.size(); ++i) {
    comes.emplace_back(items[i].begin, i);
    goes.emplace_back(items[i].end, i);
  }
  std::sort(comes.begin(), comes.end());
  std::sort(goes.begin(), goes.end());
  std::vector<int> now(most_.size());
  int64_t sum = 0;
  size_t gone = 0;
  for (const auto& [moment, i] : comes) {
    for (; goes[gone].first < moment; ++gone) {
      sum -= items[goes[gone].second].bytes;
      --now[items[goes[gone].second].index % now.size()];
    }
    const size_t kind = items[i].index % now.size();
    sum += items[i].bytes;
    held_ = std::max(held_, sum);
    most_[kind] = std::max(most_[kind], ++now[kind]);
  }
}

size_t MemoryPlan::index(int stage, int microbatch, StageMemory::Item item) const {
  return (static_cast<size_t>(microbatch) * stages_ + static_cast<size_t>(stage)) *
             StageMemory::kItems +
         item;
}

int64_t MemoryPlan::place(int stage, int microbatch, StageMemory::Item item) const {
  const size_t i = index(stage, microbatch, item);
  NEREUS_CHECK(kContract, i < places_.size() && places_[i] >= 0,
               "microbatch {} of stage {} has no memory of kind {}", microbatch, stage,
               static_cast<int>(item));
  return places_[i];
}

int MemoryPlan::most(int stage, StageMemory::Item item) const {
  return most_[static_cast<size_t>(stage) * StageMemory::kItems + item];
}

}  // namespace nereus
