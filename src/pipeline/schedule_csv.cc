#include "pipeline/schedule_csv.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "base/check.h"
#include "base/files.h"
#include "pipeline/simulator.h"

namespace nereus {
namespace {

using Kind = Action::Kind;

std::string_view trimmed(std::string_view s) {
  const auto space = [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '"'; };
  while (!s.empty() && space(s.front())) s.remove_prefix(1);
  while (!s.empty() && space(s.back())) s.remove_suffix(1);
  return s;
}

// A number below a million at the front of s, which it takes off.
std::optional<int> take_number(std::string_view& s) {
  size_t digits = 0;
  while (digits < s.size() && s[digits] >= '0' && s[digits] <= '9') ++digits;
  if (digits == 0 || digits > 6) return std::nullopt;
  int n = 0;
  std::from_chars(s.data(), s.data() + digits, n);
  s.remove_prefix(digits);
  return n;
}

bool is_communication(std::string_view what) {
  for (const char* known :
       {"UNSHARD", "RESHARD", "REDUCE_GRAD", "SEND_F", "RECV_F", "SEND_B", "RECV_B"})
    if (what == known) return true;
  return false;
}

// 2F1. Communication is returned as Kind::update, which no cell can ask for.
std::optional<Action> parse_simple(std::string_view cell) {
  const std::optional<int> stage = take_number(cell);
  if (!stage) return std::nullopt;
  size_t letters = 0;
  while (letters < cell.size() &&
         ((cell[letters] >= 'A' && cell[letters] <= 'Z') || cell[letters] == '_'))
    ++letters;
  const std::string_view what = cell.substr(0, letters);
  cell.remove_prefix(letters);
  const std::optional<int> microbatch = take_number(cell);
  if (!cell.empty()) return std::nullopt;
  if (is_communication(what)) return Action{.kind = Kind::update};
  if (!microbatch) return std::nullopt;
  Action a{.kind = Kind::forward, .stage = *stage, .microbatch = *microbatch};
  if (what == "F") return a;
  a.kind = Kind::backward;
  if (what == "B") return a;
  a.kind = Kind::backward_input;
  if (what == "I") return a;
  a.kind = Kind::backward_weight;
  if (what == "W") return a;
  return std::nullopt;
}

std::optional<Action> parse_cell(std::string_view cell) {
  if (!cell.starts_with("(")) return parse_simple(cell);
  const size_t middle = cell.find(';'), end = cell.find(')');
  if (middle == cell.npos || end == cell.npos || end < middle ||
      cell.substr(end + 1) != "OVERLAP_F_B")
    return std::nullopt;
  const auto f = parse_simple(trimmed(cell.substr(1, middle - 1)));
  const auto b = parse_simple(trimmed(cell.substr(middle + 1, end - middle - 1)));
  if (!f || !b || f->kind != Kind::forward || b->kind != Kind::backward) return std::nullopt;
  return Action{.kind = Kind::forward_backward,
                .stage = f->stage,
                .microbatch = f->microbatch,
                .backward_stage = b->stage,
                .backward_microbatch = b->microbatch};
}

}  // namespace

Schedule parse_schedule_csv(const std::string& text, int ranks, const std::string& path) {
  Schedule out{.name = path, .microbatches = 0};
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (trimmed(line).empty()) continue;
    std::vector<Action>& actions = out.actions.emplace_back();
    const int rank = out.ranks() - 1;
    std::string_view rest = line;
    for (int column = 1;; ++column) {
      const size_t comma = rest.find(',');
      const std::string_view cell = trimmed(rest.substr(0, comma));
      if (!cell.empty()) {
        const std::optional<Action> a = parse_cell(cell);
        NEREUS_CHECK(kConfig, a.has_value(),
                     "{}: rank {}, cell {}: '{}' is no action.\n  Actions are like 0F3, 0B3, 0I3, "
                     "0W3 (stage, what, microbatch) and (0F3;1B2)OVERLAP_F_B.",
                     path, rank, column, cell);
        if (a->computes()) {
          out.microbatches =
              std::max({out.microbatches, a->microbatch + 1, a->dgrad_microbatch() + 1});
          for (const int stage : {a->stage, a->dgrad_stage()}) {
            const auto s = static_cast<size_t>(stage);
            if (out.rank_of_stage.size() <= s) out.rank_of_stage.resize(s + 1, -1);
            if (out.rank_of_stage[s] < 0) out.rank_of_stage[s] = rank;
          }
          actions.push_back(*a);
        }
      }
      if (comma == rest.npos) break;
      rest.remove_prefix(comma + 1);
    }
  }
  NEREUS_CHECK(kConfig, out.ranks() == ranks,
               "{}: {} lines, and the pipeline has {} ranks: one line a rank is needed "
               "(parallelism.pipeline_parallel_degree = {}).",
               path, out.ranks(), ranks, ranks);
  for (int s = 0; s < out.stages(); ++s)
    NEREUS_CHECK(kConfig, out.rank_of_stage[static_cast<size_t>(s)] >= 0,
                 "{}: stage {} of {} does not occur: stages are numbered from 0 without gaps.",
                 path, s, out.stages());
  const std::string wrong = violation(out);
  NEREUS_CHECK(kConfig, wrong.empty() && out.microbatches > 0,
               "{}: {}.\n  A step is each microbatch's F, then its B (or I, then W), on every "
               "stage.",
               path, wrong.empty() ? "there is no action" : wrong);
  add_communication(out);
  const Simulation simulation = simulate(out, {});
  NEREUS_CHECK(kConfig, simulation.stuck.empty(), "{}: this schedule would wait for ever:\n  {}",
               path, fmt::join(simulation.stuck, "\n  "));
  return out;
}

Schedule read_schedule_csv(const std::string& path, int ranks) {
  std::error_code unknown;
  NEREUS_CHECK(kConfig, std::filesystem::is_regular_file(path, unknown),
               "The specified path {} does not exist or is not a file.\n  "
               "parallelism.pipeline_parallel_schedule_csv = \"{}\": {}; name a table of actions.",
               path, path, what_is_at(path));
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  NEREUS_CHECK(kConfig, file.good() || file.eof(), "{}: cannot be read", path);
  return parse_schedule_csv(text.str(), ranks, path);
}

std::string schedule_csv(const Schedule& schedule) {
  std::string out;
  for (const std::vector<Action>& actions : schedule.actions) {
    bool first = true;
    for (const Action& a : actions) {
      if (!a.computes()) continue;
      if (!first) out += ',';
      out += a.to_string();
      first = false;
    }
    out += '\n';
  }
  return out;
}

}  // namespace nereus
