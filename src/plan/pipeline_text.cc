#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "plan/pipeline_plan.h"

namespace nereus {
namespace {

using Kind = Action::Kind;

// The how-manieth of its rank's stages.
int chunk_of(const Schedule& schedule, int rank, int stage) {
  int chunk = 0;
  for (int s = 0; s < stage; ++s)
    if (schedule.rank_of_stage[static_cast<size_t>(s)] == rank) ++chunk;
  return chunk;
}

char letter(const Schedule& schedule, int rank, const Action& a) {
  const char c = a.kind == Kind::forward            ? 'F'
                 : a.kind == Kind::backward         ? 'B'
                 : a.kind == Kind::backward_input   ? 'I'
                 : a.kind == Kind::backward_weight  ? 'W'
                 : a.kind == Kind::forward_backward ? 'X'
                                                    : '?';
  const bool first = chunk_of(schedule, rank, a.stage) == 0;
  return first ? c : static_cast<char>(c - 'A' + 'a');
}

// The longest time that all spans are multiples of, among the simple fractions of the shortest
// action; 0 when there is none.
double unit_of(const PipelinePlan& plan) {
  double shortest = plan.simulation.makespan;
  std::vector<double> times;
  for (size_t r = 0; r < plan.schedule.actions.size(); ++r)
    for (size_t i = 0; i < plan.schedule.actions[r].size(); ++i) {
      const Simulation::Span& s = plan.simulation.spans[r][i];
      if (!plan.schedule.actions[r][i].computes() || s.end <= s.begin) continue;
      shortest = std::min(shortest, s.end - s.begin);
      times.push_back(s.begin);
      times.push_back(s.end);
    }
  for (const int part : {1, 2, 3, 4}) {
    const double unit = shortest / part;
    if (std::all_of(times.begin(), times.end(),
                    [&](double t) { return std::abs(t / unit - std::round(t / unit)) < 1e-6; }))
      return unit;
  }
  return 0;
}

// Every action with its microbatch, a cell a unit of time.
std::string detailed(const PipelinePlan& plan, size_t rank, double unit, size_t cell) {
  std::string line(static_cast<size_t>(std::lround(plan.simulation.makespan / unit)) * cell, ' ');
  const size_t columns = line.size();
  for (size_t i = 0; i < columns; i += cell) line[i] = '.';
  for (size_t i = 0; i < plan.schedule.actions[rank].size(); ++i) {
    const Action& a = plan.schedule.actions[rank][i];
    const Simulation::Span& span = plan.simulation.spans[rank][i];
    if (!a.computes() || span.end <= span.begin) continue;
    const auto begin = static_cast<size_t>(std::lround(span.begin / unit)) * cell;
    const auto end = static_cast<size_t>(std::lround(span.end / unit)) * cell;
    std::string label =
        fmt::format("{}{}", letter(plan.schedule, static_cast<int>(rank), a), a.microbatch);
    if (a.kind == Kind::forward_backward) label += fmt::format("+{}", a.backward_microbatch);
    label.resize(end - begin, ' ');
    label.back() = ' ';
    line.replace(begin, end - begin, label);
  }
  return line;
}

// What goes on in the middle of each column's time.
std::string sampled(const PipelinePlan& plan, size_t rank, int columns) {
  std::string line(static_cast<size_t>(columns), '.');
  for (size_t i = 0; i < plan.schedule.actions[rank].size(); ++i) {
    const Action& a = plan.schedule.actions[rank][i];
    const Simulation::Span& span = plan.simulation.spans[rank][i];
    if (!a.computes()) continue;
    for (int c = 0; c < columns; ++c) {
      const double t = (c + 0.5) * plan.simulation.makespan / columns;
      if (t >= span.begin && t < span.end)
        line[static_cast<size_t>(c)] = letter(plan.schedule, static_cast<int>(rank), a);
    }
  }
  return line;
}

std::string blocks_text(const PipelinePlan& plan, int rank) {
  std::string out;
  for (const int s : plan.schedule.stages_of(rank)) {
    const Stage::Part& p = plan.parts[static_cast<size_t>(s)];
    out += fmt::format("{}{}", out.empty() ? "" : " | ", p.embedding ? "embedding " : "");
    out += p.end_block == p.first_block ? std::string()
           : p.end_block == p.first_block + 1
               ? fmt::format("{}", p.first_block)
               : fmt::format("{}-{}", p.first_block, p.end_block - 1);
    if (p.head) out += p.end_block == p.first_block ? "head" : " head";
  }
  return out;
}

}  // namespace

std::string text_of(const PipelinePlan& plan, const PipelinePlanOptions& options, int columns) {
  const Schedule& s = plan.schedule;
  const Simulation& sim = plan.simulation;
  const int v = plan.stages_per_rank;
  std::string out = fmt::format(
      "{}: {} ranks, {} stages, {} microbatches; a microbatch on a rank: forward {:g}, dgrad {:g}, "
      "wgrad {:g}\n\n",
      s.name, s.ranks(), s.stages(), s.microbatches, options.costs.forward, options.costs.dgrad,
      options.costs.wgrad);

  const double unit = unit_of(plan);
  const size_t digits = std::to_string(s.microbatches - 1).size();
  const size_t cell = digits + 2;
  const bool in_detail =
      unit > 0 && sim.makespan / unit * static_cast<double>(cell) <= static_cast<double>(columns);
  const size_t rank_digits = std::to_string(s.ranks() - 1).size();
  for (size_t r = 0; r < s.actions.size(); ++r) {
    std::string line = in_detail ? detailed(plan, r, unit, cell) : sampled(plan, r, columns);
    line.erase(line.find_last_not_of(' ') + 1);
    out += fmt::format("rank {:>{}}  {}\n", r, rank_digits, line);
  }
  out += fmt::format(
      "\n{}F forward, B backward (I dgrad alone, W wgrad alone), X forward and "
      "backward overlapped, . idle{}\n",
      in_detail ? "" : fmt::format("{:.3g} a column. ", sim.makespan / columns),
      v > 1 ? "; lower case: a rank's later stages" : "");

  out += fmt::format("\n{:>4}  {:>8}  {:>7}  {:>22}  {:>9}{}\n", "rank", "busy", "idle",
                     "activations held until", "receiving", plan.parts.empty() ? "" : "  blocks");
  out += fmt::format("{:>4}  {:>8}  {:>7}  {:>10}  {:>10}  {:>9}\n", "", "", "", "dgrad", "wgrad",
                     "edges");
  for (size_t r = 0; r < sim.ranks.size(); ++r) {
    const Simulation::Rank& rank = sim.ranks[r];
    out += fmt::format("{:>4}  {:>8.5g}  {:>5.1f} %  {:>10.4g}  {:>10.4g}  {:>9}{}\n", r, rank.busy,
                       100 * (1 - rank.busy / sim.makespan),
                       static_cast<double>(rank.held_for_dgrad) / v,
                       static_cast<double>(rank.held_for_wgrad) / v, rank.receiving,
                       plan.parts.empty() ? "" : "  " + blocks_text(plan, static_cast<int>(r)));
  }
  out += fmt::format(
      "\nstep {:.5g}, bubble {:.1f} %, peak activations {:.4g} microbatches of a rank's blocks\n",
      sim.makespan, 100 * sim.bubble, sim.peak_activations(v));
  return out;
}

}  // namespace nereus
