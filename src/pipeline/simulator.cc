#include "pipeline/simulator.h"

#include <algorithm>
#include <deque>
#include <map>

#include "base/check.h"

namespace nereus {
namespace {

using Kind = Action::Kind;

double cost_of(const Action& a, const StageCosts& costs, int stages) {
  double cost = 0;
  if (a.has_forward()) cost += costs.forward + (a.stage + 1 == stages ? costs.head : 0);
  if (a.has_dgrad()) cost += costs.dgrad;
  if (a.has_wgrad()) cost += costs.wgrad;
  return cost;
}

std::string edge_text(const Edge& e) {
  return fmt::format("the {} of microbatch {} for stage {}",
                     e.kind == Edge::Kind::activation ? "activation" : "gradient", e.microbatch,
                     e.consumer);
}

class Run {
 public:
  Run(const Schedule& schedule, const StageCosts& costs)
      : schedule_(schedule),
        costs_(costs),
        next_(static_cast<size_t>(schedule.ranks())),
        now_(static_cast<size_t>(schedule.ranks())),
        asked_(static_cast<size_t>(schedule.ranks())) {
    out_.ranks.resize(next_.size());
    out_.spans.resize(next_.size());
    held_.resize(next_.size());
  }

  Simulation run() {
    for (bool moved = true; moved;) {
      moved = false;
      for (size_t r = 0; r < next_.size(); ++r)
        while (next_[r] < schedule_.actions[r].size() && step(r)) moved = true;
    }
    double busy = 0;
    for (size_t r = 0; r < next_.size(); ++r) {
      out_.makespan = std::max(out_.makespan, now_[r]);
      busy += out_.ranks[r].busy;
      if (next_[r] == schedule_.actions[r].size()) continue;
      const Action& a = schedule_.actions[r][next_[r]];
      out_.stuck.push_back(fmt::format("rank {} is stuck at {} (action {} of {}): {}", r,
                                       a.to_string(), next_[r] + 1, schedule_.actions[r].size(),
                                       reason(r, a)));
    }
    const double all = out_.makespan * static_cast<double>(next_.size());
    out_.bubble = all > 0 ? 1 - busy / all : 0;
    return std::move(out_);
  }

 private:
  struct Channel {                             // from one rank to another
    std::deque<std::pair<Edge, double>> sent;  // when it is there
    std::deque<Edge> asked;
  };
  struct Held {
    int dgrad = 0, wgrad = 0;
  };

  Channel& channel(size_t from, size_t to) { return channels_[{from, to}]; }

  bool step(size_t r) {
    const Action& a = schedule_.actions[r][next_[r]];
    double begin = now_[r];
    switch (a.kind) {
      case Kind::send:
        channel(r, static_cast<size_t>(a.peer))
            .sent.push_back({edge_of(a), now_[r] + costs_.transfer});
        break;
      case Kind::recv:
        channel(static_cast<size_t>(a.peer), r).asked.push_back(edge_of(a));
        ++asked_[r];
        out_.ranks[r].receiving = std::max(out_.ranks[r].receiving, asked_[r]);
        break;
      case Kind::wait:
        if (!arrive(r, a)) return false;
        begin = now_[r];
        break;
      default:
        if (a.computes()) {
          if (!local_edges_there(r, a)) return false;
          compute(r, a);
        }
    }
    out_.spans[r].push_back({begin, now_[r]});
    ++next_[r];
    return true;
  }

  // Takes messages of the channel in order until the one that `a` waits for.
  bool arrive(size_t r, const Action& a) {
    Channel& c = channel(static_cast<size_t>(a.peer), r);
    const auto known = arrived_.find({r, edge_of(a)});
    if (known == arrived_.end()) {
      while (!c.asked.empty() && !c.sent.empty() && c.asked.front() == c.sent.front().first) {
        arrived_[{r, c.asked.front()}] = c.sent.front().second;
        c.asked.pop_front();
        c.sent.pop_front();
      }
    }
    const auto it = arrived_.find({r, edge_of(a)});
    if (it == arrived_.end()) return false;
    now_[r] = std::max(now_[r], it->second);
    there_.insert({{r, edge_of(a)}, now_[r]});
    return true;
  }

  // Edges between stages of one rank, and what `wait` brought.
  bool local_edges_there(size_t r, const Action& a) const {
    for (const Edge& e : edges_needed(a, schedule_.stages()))
      if (there_.count({r, e}) == 0) return false;
    return true;
  }
  bool is_on(size_t r, int stage) const {
    return schedule_.rank_of_stage[static_cast<size_t>(stage)] == static_cast<int>(r);
  }

  void compute(size_t r, const Action& a) {
    for (const Edge& e : edges_needed(a, schedule_.stages()))
      if (!is_on(r, e.producer())) --asked_[r];
    const double cost = cost_of(a, costs_, schedule_.stages());
    now_[r] += cost;
    Simulation::Rank& rank = out_.ranks[r];
    rank.busy += cost;
    Held& held = held_[r];
    if (a.has_forward()) {
      ++held.dgrad;
      ++held.wgrad;
    }
    rank.held_for_dgrad = std::max(rank.held_for_dgrad, held.dgrad);
    rank.held_for_wgrad = std::max(rank.held_for_wgrad, held.wgrad);
    if (a.has_dgrad()) --held.dgrad;
    if (a.has_wgrad()) --held.wgrad;
    for (const Edge& e : edges_produced(a, schedule_.stages()))
      if (is_on(r, e.consumer)) there_.insert({{r, e}, now_[r]});
  }

  std::string reason(size_t r, const Action& a) {
    if (a.kind == Kind::wait) {
      Channel& c = channel(static_cast<size_t>(a.peer), r);
      if (c.asked.empty()) return "it waits for what it has not asked for";
      if (c.sent.empty())
        return fmt::format("rank {} has not sent {}", a.peer, edge_text(c.asked.front()));
      return fmt::format("rank {} sent {} first, and this rank asked for {} first", a.peer,
                         edge_text(c.sent.front().first), edge_text(c.asked.front()));
    }
    for (const Edge& e : edges_needed(a, schedule_.stages()))
      if (there_.count({r, e}) == 0) return edge_text(e) + " is not there";
    return "it is not ready";
  }

  const Schedule& schedule_;
  const StageCosts& costs_;
  std::vector<size_t> next_;
  std::vector<double> now_;
  std::vector<int> asked_;
  std::vector<Held> held_;
  std::map<std::pair<size_t, size_t>, Channel> channels_;
  std::map<std::pair<size_t, Edge>, double> arrived_, there_;
  Simulation out_;
};

}  // namespace

double Simulation::peak_activations(int stages_per_rank) const {
  int most = 0;
  for (const Rank& r : ranks) most = std::max(most, r.held_for_wgrad);
  return static_cast<double>(most) / stages_per_rank;
}

Simulation simulate(const Schedule& schedule, const StageCosts& costs) {
  return Run(schedule, costs).run();
}

}  // namespace nereus
