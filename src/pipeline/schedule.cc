#include "pipeline/schedule.h"

#include <algorithm>
#include <functional>
#include <map>

#include "base/check.h"

namespace nereus {
namespace {

using Kind = Action::Kind;

Action communication(Kind kind, const Edge& e, int peer) {
  return {.kind = kind,
          .stage = kind == Kind::send ? e.producer() : e.consumer,
          .microbatch = e.microbatch,
          .edge = e.kind,
          .peer = peer};
}

// Writes one rank's list with its communication.
class Completion {
 public:
  // order[q]: the edges that rank q sends to this rank, in its order; place_of(e): where e is
  // there.
  Completion(const Schedule& schedule, const std::vector<std::vector<Edge>>& order,
             const std::function<size_t(const Edge&)>& place_of)
      : schedule_(schedule),
        order_(order),
        place_of_(place_of),
        received_(order.size()),
        gathered_(static_cast<size_t>(schedule.stages())) {}

  std::vector<Action> run(const std::vector<Action>& compute) {
    std::map<int, size_t> last_wgrad;
    for (size_t i = 0; i < compute.size(); ++i)
      if (compute[i].has_wgrad()) last_wgrad[compute[i].dgrad_stage()] = i;
    for (size_t i = 0; i < compute.size(); ++i) {
      const Action& a = compute[i];
      prepare(a);
      if (i + 1 < compute.size()) prepare(compute[i + 1]);
      for (const Edge& e : edges_needed(a, schedule_.stages()))
        if (crosses(e)) out_.push_back(communication(Kind::wait, e, rank_of(e.producer())));
      out_.push_back(a);
      for (const Edge& e : edges_produced(a, schedule_.stages()))
        if (crosses(e)) out_.push_back(communication(Kind::send, e, rank_of(e.consumer)));
      if (a.has_wgrad() && last_wgrad[a.dgrad_stage()] == i)
        out_.push_back({.kind = Kind::reduce, .stage = a.dgrad_stage()});
    }
    out_.push_back({.kind = Kind::update});
    return std::move(out_);
  }

 private:
  int rank_of(int stage) const { return schedule_.rank_of_stage[static_cast<size_t>(stage)]; }
  bool crosses(const Edge& e) const { return rank_of(e.producer()) != rank_of(e.consumer); }

  void prepare(const Action& a) {
    for (const int stage : {a.stage, a.dgrad_stage()}) {
      if (gathered_[static_cast<size_t>(stage)]) continue;
      gathered_[static_cast<size_t>(stage)] = true;
      out_.push_back({.kind = Kind::gather, .stage = stage});
    }
    for (const Edge& e : edges_needed(a, schedule_.stages())) {
      if (!crosses(e)) continue;
      // Messages of a pair of ranks keep their order: what was sent before is received before.
      const auto peer = static_cast<size_t>(rank_of(e.producer()));
      const std::vector<Edge>& sent = order_[peer];
      for (const size_t end = std::min(place_of_(e) + 1, sent.size()); received_[peer] < end;
           ++received_[peer]) {
        const Edge& next = sent[received_[peer]];
        out_.push_back(communication(Kind::recv, next, static_cast<int>(peer)));
      }
    }
  }

  const Schedule& schedule_;
  const std::vector<std::vector<Edge>>& order_;
  const std::function<size_t(const Edge&)>& place_of_;
  std::vector<size_t> received_;  // by peer
  std::vector<bool> gathered_;    // by stage
  std::vector<Action> out_;
};

}  // namespace

std::string Action::to_string() const {
  const auto with = [](int s, const char* what, int m) {
    return fmt::format("{}{}{}", s, what, m);
  };
  switch (kind) {
    case Kind::gather:
      return fmt::format("{}UNSHARD", stage);
    case Kind::forward:
      return with(stage, "F", microbatch);
    case Kind::backward:
      return with(stage, "B", microbatch);
    case Kind::backward_input:
      return with(stage, "I", microbatch);
    case Kind::backward_weight:
      return with(stage, "W", microbatch);
    case Kind::forward_backward:
      return fmt::format("({}F{};{}B{})OVERLAP_F_B", stage, microbatch, backward_stage,
                         backward_microbatch);
    case Kind::send:
      return with(stage, edge == Edge::Kind::activation ? "SEND_F" : "SEND_B", microbatch);
    case Kind::recv:
      return with(stage, edge == Edge::Kind::activation ? "RECV_F" : "RECV_B", microbatch);
    case Kind::wait:
      return with(stage, edge == Edge::Kind::activation ? "WAIT_F" : "WAIT_B", microbatch);
    case Kind::reduce:
      return fmt::format("{}REDUCE_GRAD", stage);
    case Kind::update:
      return "UPDATE";
  }
  return "?";
}

std::vector<int> Schedule::stages_of(int rank) const {
  std::vector<int> out;
  for (int s = 0; s < stages(); ++s)
    if (rank_of_stage[static_cast<size_t>(s)] == rank) out.push_back(s);
  return out;
}

Schedule sequential_schedule(int microbatches) {
  std::vector<Action> actions = {{.kind = Kind::gather}};
  for (int m = 0; m < microbatches; ++m) {
    actions.push_back({.kind = Kind::forward, .microbatch = m});
    actions.push_back({.kind = Kind::backward, .microbatch = m});
  }
  actions.push_back({.kind = Kind::reduce});
  actions.push_back({.kind = Kind::update});
  return {.name = "",
          .microbatches = microbatches,
          .rank_of_stage = {0},
          .actions = {std::move(actions)}};
}

void add_communication(Schedule& schedule) {
  const auto n = static_cast<size_t>(schedule.ranks());
  const auto S = static_cast<size_t>(schedule.stages());
  const auto M = static_cast<size_t>(schedule.microbatches);
  // sent[to][from], and the place of each edge in its list.
  std::vector<std::vector<std::vector<Edge>>> sent(n, std::vector<std::vector<Edge>>(n));
  std::vector<size_t> places(2 * S * M);
  const auto index = [&](const Edge& e) {
    return (static_cast<size_t>(e.consumer) * M + static_cast<size_t>(e.microbatch)) * 2 +
           static_cast<size_t>(e.kind);
  };
  for (size_t rank = 0; rank < n; ++rank)
    for (const Action& a : schedule.actions[rank])
      for (const Edge& e : edges_produced(a, schedule.stages())) {
        const auto to =
            static_cast<size_t>(schedule.rank_of_stage[static_cast<size_t>(e.consumer)]);
        if (to == rank) continue;
        places[index(e)] = sent[to][rank].size();
        sent[to][rank].push_back(e);
      }
  const std::function<size_t(const Edge&)> place_of = [&](const Edge& e) {
    return places[index(e)];
  };
  std::vector<std::vector<Action>> complete;
  for (size_t rank = 0; rank < n; ++rank)
    complete.push_back(Completion(schedule, sent[rank], place_of).run(schedule.actions[rank]));
  schedule.actions = std::move(complete);
}

std::string violation(const Schedule& schedule) {
  const int S = schedule.stages(), M = schedule.microbatches;
  // What each stage has done of each microbatch: 0 nothing, 1 F, 2 dgrad, 3 wgrad.
  std::vector<int> done(static_cast<size_t>(S) * static_cast<size_t>(M));
  for (int rank = 0; rank < schedule.ranks(); ++rank) {
    for (const Action& a : schedule.actions[static_cast<size_t>(rank)]) {
      if (!a.computes()) continue;
      struct Step {
        int stage, microbatch, before;
        const char* rule;
      };
      std::vector<Step> steps;
      if (a.has_forward()) steps.push_back({a.stage, a.microbatch, 0, "is its second forward"});
      if (a.has_dgrad())
        steps.push_back({a.dgrad_stage(), a.dgrad_microbatch(), 1, "does not follow its forward"});
      if (a.has_wgrad())
        steps.push_back({a.dgrad_stage(), a.dgrad_microbatch(), 2, "does not follow its dgrad"});
      for (const Step& step : steps) {
        if (step.stage < 0 || step.stage >= S || step.microbatch < 0 || step.microbatch >= M)
          return fmt::format("{} of rank {} is outside of {} stages and {} microbatches",
                             a.to_string(), rank, S, M);
        if (schedule.rank_of_stage[static_cast<size_t>(step.stage)] != rank)
          return fmt::format("{} is on rank {}, and stage {} on rank {}", a.to_string(), rank,
                             step.stage, schedule.rank_of_stage[static_cast<size_t>(step.stage)]);
        int& now = done[static_cast<size_t>(step.stage * M + step.microbatch)];
        if (now != step.before)
          return fmt::format("{} of rank {} {}", a.to_string(), rank, step.rule);
        ++now;
      }
    }
  }
  for (int s = 0; s < S; ++s)
    for (int m = 0; m < M; ++m) {
      const int now = done[static_cast<size_t>(s * M + m)];
      if (now < 3)
        return fmt::format("microbatch {} has no {} on stage {}", m,
                           now == 0   ? "forward"
                           : now == 1 ? "dgrad (B or I)"
                                      : "wgrad (B or W)",
                           s);
    }
  return "";
}

int microbatches_in_flight(const std::vector<Action>& actions) {
  int now = 0, most = 0;
  for (const Action& a : actions) {
    if (a.has_forward()) ++now;
    most = std::max(most, now);
    if (a.has_wgrad()) --now;
  }
  return most;
}

}  // namespace nereus
