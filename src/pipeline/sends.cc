#include "pipeline/sends.h"

#include <algorithm>
#include <array>
#include <map>

#include "base/check.h"

namespace nereus {
namespace {

using Kind = Action::Kind;

// Runs the lists with room for `most` messages of a pair of ranks.
class Run {
 public:
  Run(const Schedule& schedule, int most)
      : schedule_(schedule), most_(most), at_(schedule.actions.size()) {
    for (size_t rank = 0; rank < at_.size(); ++rank) {
      std::map<int, int> count;  // by receiver
      for (const Action& a : schedule.actions[rank])
        if (a.kind == Kind::send) number_[key(edge_of(a))] = ++count[a.peer];
    }
  }

  bool ends() {
    for (bool moved = true; moved;) {
      moved = false;
      for (size_t rank = 0; rank < at_.size(); ++rank)
        while (at_[rank] < schedule_.actions[rank].size() &&
               step(static_cast<int>(rank), schedule_.actions[rank][at_[rank]])) {
          ++at_[rank];
          moved = true;
        }
    }
    for (size_t rank = 0; rank < at_.size(); ++rank)
      if (at_[rank] < schedule_.actions[rank].size()) return false;
    return true;
  }

 private:
  struct Link {
    int sent = 0, received = 0;
  };
  using Key = std::array<int, 3>;
  static Key key(const Edge& e) { return {e.consumer, e.microbatch, static_cast<int>(e.kind)}; }

  // A wait takes what the sender sent before its message too.
  bool step(int rank, const Action& a) {
    if (a.kind == Kind::send) {
      Link& link = links_[{rank, a.peer}];
      if (link.sent - link.received == most_) return false;
      ++link.sent;
    } else if (a.kind == Kind::wait) {
      Link& link = links_[{a.peer, rank}];
      const int number = number_.at(key(edge_of(a)));
      if (link.sent < number) return false;
      link.received = std::max(link.received, number);
    }
    return true;
  }

  const Schedule& schedule_;
  const int most_;
  std::vector<size_t> at_;
  std::map<Key, int> number_;  // an edge's place among the messages of its sender to its receiver
  std::map<std::pair<int, int>, Link> links_;
};

}  // namespace

int sends_needed(const Schedule& schedule) {
  int messages = 0;
  for (const auto& actions : schedule.actions)
    for (const Action& a : actions) messages += a.kind == Kind::send ? 1 : 0;
  if (messages == 0) return 0;
  for (int most = 1; most <= messages; ++most)
    if (Run(schedule, most).ends()) return most;
  NEREUS_FAIL(kContract, "schedule {}: its ranks wait for each other in a circle", schedule.name);
}

int messages_waiting(const Schedule& schedule) { return std::max(4, sends_needed(schedule) + 1); }

}  // namespace nereus
