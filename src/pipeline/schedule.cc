#include "pipeline/schedule.h"

#include <algorithm>

namespace nereus {

std::vector<Action> sequential_schedule(int microbatches) {
  std::vector<Action> actions = {{Action::Kind::gather, 0, 0}};
  for (int m = 0; m < microbatches; ++m) {
    actions.push_back({Action::Kind::forward, 0, m});
    actions.push_back({Action::Kind::backward, 0, m});
  }
  actions.push_back({Action::Kind::reduce, 0, 0});
  actions.push_back({Action::Kind::update, 0, 0});
  return actions;
}

int microbatches_in_flight(const std::vector<Action>& actions) {
  int now = 0, most = 0;
  for (const Action& a : actions) {
    if (a.kind == Action::Kind::forward) ++now;
    if (a.kind == Action::Kind::backward) --now;
    most = std::max(most, now);
  }
  return most;
}

}  // namespace nereus
