// The schedules: who computes what in which order. Each has a row in kSchedules, at the end, and a
// function that writes one rank's F, B, I, W and FB; add_communication() does the rest. p ranks, r
// this one, v stages a rank, m microbatches.
#include <algorithm>
#include <cctype>
#include <deque>

#include "base/check.h"
#include "base/suggest.h"
#include "base/text.h"
#include "pipeline/schedule.h"

namespace nereus {
namespace {

using Kind = Action::Kind;

// A rank's list. Microbatches of a stage are counted up by kind, unless one is named.
class List {
 public:
  // `pending`: most dgrads that have no wgrad yet; -1: any number.
  List(int stages, int pending) : next_(static_cast<size_t>(stages)), most_pending_(pending) {}

  void forward(int stage) { add(Kind::forward, stage, next(stage).forward++); }
  void backward(int stage) { backward(stage, next(stage).dgrad++); }
  void backward(int stage, int microbatch) { add(Kind::backward, stage, microbatch); }
  void dgrad(int stage) {
    while (most_pending_ > 0 && static_cast<int>(pending_.size()) >= most_pending_) wgrad();
    const int m = next(stage).dgrad++;
    add(Kind::backward_input, stage, m);
    pending_.push_back({stage, m});
  }
  // wgrad of the oldest dgrad that has none yet, of any stage.
  void wgrad() {
    if (pending_.empty()) return;
    add(Kind::backward_weight, pending_.front().first, pending_.front().second);
    pending_.pop_front();
  }
  // wgrad of the oldest dgrad of `stage`.
  void wgrad(int stage) {
    const auto it = std::find_if(pending_.begin(), pending_.end(),
                                 [&](const auto& p) { return p.first == stage; });
    if (it == pending_.end()) return;
    add(Kind::backward_weight, stage, it->second);
    pending_.erase(it);
  }
  void overlapped(int forward_stage, int backward_stage) {
    actions_.push_back({.kind = Kind::forward_backward,
                        .stage = forward_stage,
                        .microbatch = next(forward_stage).forward++,
                        .backward_stage = backward_stage,
                        .backward_microbatch = next(backward_stage).dgrad++});
  }

  bool any_pending() const { return !pending_.empty(); }
  int forwards(int stage) { return next(stage).forward; }
  // Without what a schedule of more microbatches does with those from `microbatches` on.
  std::vector<Action> take(int microbatches) {
    std::erase_if(actions_, [&](const Action& a) { return a.microbatch >= microbatches; });
    return std::move(actions_);
  }

 private:
  struct Next {
    int forward = 0, dgrad = 0;
  };
  Next& next(int stage) { return next_[static_cast<size_t>(stage)]; }
  void add(Kind kind, int stage, int microbatch) {
    actions_.push_back({.kind = kind, .stage = stage, .microbatch = microbatch});
  }

  std::vector<Next> next_;
  int most_pending_;
  std::deque<std::pair<int, int>> pending_;  // stage, microbatch: I without W
  std::vector<Action> actions_;
};

// All forwards, then all backwards.
void gpipe(List& l, int, int r, int, int m) {
  for (int i = 0; i < m; ++i) l.forward(r);
  for (int i = 0; i < m; ++i) l.backward(r);
}

// As many forwards as there are stages behind, then one forward and one backward in turn.
void one_f_one_b(List& l, int p, int r, int, int m) {
  const int warm_up = std::min(m, p - 1 - r);
  for (int i = 0; i < warm_up; ++i) l.forward(r);
  for (int i = warm_up; i < m; ++i) {
    l.forward(r);
    l.backward(r);
  }
  for (int i = 0; i < warm_up; ++i) l.backward(r);
}

// Breadth first: all microbatches through a stage before the next.
void looped_bfs(List& l, int p, int r, int v, int m) {
  for (int chunk = 0; chunk < v; ++chunk)
    for (int i = 0; i < m; ++i) l.forward(chunk * p + r);
  for (int chunk = v; chunk-- > 0;)
    for (int i = m; i-- > 0;) l.backward(chunk * p + r, i);
}

// Of the interleaved schedules.
int rounds(int p, int m) { return std::max(1, m / p); }

// Rounds of as many microbatches as ranks go through all of a rank's stages, one forward and one
// backward in turn. With `split`, dgrad and wgrad are apart: the warm-up is half as long, and wgrad
// runs r dgrads behind, where the pipeline would be idle.
void interleaved(List& l, int p, int r, int v, int m, bool split) {
  const int round = m / rounds(p, m);  // microbatches of a round
  const int total = m * v;
  const int warm_up = std::min(total, (v - 1) * round + (split ? 1 : 2) * (p - 1 - r));
  const auto chunk = [&](int i) { return i / round % v; };
  const auto backward = [&](int i) {
    const int stage = (v - 1 - chunk(i)) * p + r;
    if (!split) return l.backward(stage);
    l.dgrad(stage);
    if (i >= r) l.wgrad();
  };
  for (int i = 0; i < total + warm_up; ++i) {
    if (i < total) l.forward(chunk(i) * p + r);
    if (i >= warm_up) backward(i - warm_up);
  }
  while (l.any_pending()) l.wgrad();
}

// Zero bubble, V-shaped (Qi et al. 2023, section 6): with F = I = W no rank waits in the middle,
// and no rank holds more activations than 1F1B's first. Made for at least 2p - 1 microbatches; with
// fewer, the others' actions are left out.
void zbv(List& l, int p, int r, int, int m) {
  const int down = r, up = 2 * p - 1 - r, n = std::max(m, 2 * p - 1);
  for (int i = 0; i < 2 * (p - r) - 1; ++i) l.forward(down);
  for (int i = 0; i < r; ++i) {
    l.forward(up);
    l.forward(down);
  }
  const auto both_of_backward = [&](int stage) {
    l.dgrad(stage);
    l.wgrad(stage);
  };
  for (int i = 0; i < p - r; ++i) {
    l.forward(up);
    both_of_backward(up);
  }
  while (l.forwards(up) < n) {
    if (l.forwards(down) < n) l.forward(down);
    both_of_backward(down);
    l.forward(up);
    both_of_backward(up);
  }
  for (int i = 0; i < r; ++i) {
    l.dgrad(down);
    l.dgrad(up);
  }
  for (int i = 0; i < p - r; ++i) both_of_backward(down);
  for (const int stage : {up, down})
    for (int i = 0; i < p; ++i) l.wgrad(stage);
}

// DualPipe cut in half (DeepSeek, github.com/deepseek-ai/DualPipe): in the middle every forward is
// paired with another microbatch's backward, so that the exchange of the one can hide behind the
// other's arithmetic. The executor does not overlap them yet (Action::Kind::forward_backward).
void dualpipe_v(List& l, int p, int r, int, int m) {
  const int down = r, up = 2 * p - 1 - r, behind = p - 1 - r;
  for (int i = 0; i < 2 * behind; ++i) l.forward(down);
  for (int i = 0; i < r + 1; ++i) {
    l.forward(down);
    l.forward(up);
  }
  for (int i = 0; i < behind; ++i) {
    l.dgrad(up);
    l.wgrad();
    l.forward(up);
  }
  for (int i = 0; i < m - 2 * p + r + 1; ++i) {
    if (i == 0 && behind == 0) {  // the turn of the V: apart they leave a smaller bubble
      l.forward(down);
      l.backward(up);
    } else {
      l.overlapped(down, up);
    }
    l.overlapped(up, down);
  }
  for (int i = 0; i < behind; ++i) {
    l.backward(up);
    l.overlapped(up, down);
  }
  // From the middle on wgrads are kept for the end.
  bool split = false;
  const auto backward = [&](int stage) { split ? l.dgrad(stage) : l.backward(stage); };
  for (int i = 0; i < r + 1; ++i) {
    const bool middle = i == (r + 1) / 2;
    split = split || (middle && r % 2 == 1);
    backward(up);
    split = split || (middle && r % 2 == 0);
    backward(down);
  }
  for (int i = 0; i < behind; ++i) {
    l.wgrad();
    backward(down);
  }
  while (l.any_pending()) l.wgrad();
}

// Where the stages are.
enum class Placement : uint8_t {
  one,   // one on each rank
  loop,  // two or more on each: rank r has r, r + p, r + 2p, ...
  v,     // two on each: rank r has r and 2p - 1 - r
};

struct ScheduleRow {
  const char* name;
  Placement placement;
  void (*write)(List&, int p, int r, int v, int m);  // rank r's actions
  // Throws Error{kConfig} where m microbatches on p ranks cannot be; null: any number can.
  void (*check_microbatches)(int p, int m);
};

void check_rounds(const char* title, int p, int m) {
  NEREUS_CHECK(
      kConfig, m % rounds(p, m) == 0,
      "{} requires the number of microbatches to be a multiple of the number of rounds "
      "({}), but got {}.\n  A round is at least as many microbatches as ranks ({}): use {} "
      "or {} microbatches.",
      title, rounds(p, m), m, p, m / p * p, (m / p + 1) * p);
}

void check_dualpipe_v(int p, int m) {
  NEREUS_CHECK(
      kConfig, m >= 2 * p,
      "DualPipeV requires at least as many microbatches as stages, but got {} microbatches "
      "and {} stages.\n  Use {} microbatches or more, fewer ranks, or ZBVZeroBubble.",
      m, 2 * p, 2 * p);
}

constexpr ScheduleRow kSchedules[] = {
    {"1F1B", Placement::one, one_f_one_b, nullptr},
    {"Interleaved1F1B", Placement::loop,
     [](List& l, int p, int r, int v, int m) { interleaved(l, p, r, v, m, false); },
     [](int p, int m) { check_rounds("Interleaved 1F1B", p, m); }},
    {"GPipe", Placement::one, gpipe, nullptr},
    {"LoopedBFS", Placement::loop, looped_bfs, nullptr},
    {"InterleavedZeroBubble", Placement::loop,
     [](List& l, int p, int r, int v, int m) { interleaved(l, p, r, v, m, true); },
     [](int p, int m) { check_rounds("Zero bubble", p, m); }},
    {"ZBVZeroBubble", Placement::v, zbv, nullptr},
    {"DualPipeV", Placement::v, dualpipe_v, check_dualpipe_v},
};

// Null: there is none.
const ScheduleRow* find(const std::string& name) {
  for (const ScheduleRow& row : kSchedules)
    if (lower(row.name) == lower(name)) return &row;
  return nullptr;
}

const ScheduleRow& known(const std::string& name) {
  if (const ScheduleRow* row = find(name)) return *row;
  const std::vector<std::string> names = schedule_names();
  const std::string near = nearest(name, names);
  NEREUS_FAIL(kConfig, "Unknown schedule name '{}'. The valid options are {}{}", name,
              fmt::join(names, ", "), near.empty() ? "" : "; did you mean " + near + "?");
}

void check_stages(const ScheduleRow& s, int p, int v) {
  NEREUS_CHECK(kConfig, s.placement != Placement::one || v == 1,
               "Single stage schedule requires exactly 1 stage per rank, but got {} stages per "
               "rank.\n  {} with {} ranks: use Interleaved1F1B for {} stages, or make one stage a "
               "rank.",
               v, s.name, p, p * v);
  NEREUS_CHECK(kConfig, s.placement == Placement::one || v >= 2,
               "Multi-stage schedule requires at least 2 stages per rank, but got {} stages per "
               "rank.\n  {} with {} ranks: make {} stages or more, or use 1F1B.",
               v, s.name, p, 2 * p);
  NEREUS_CHECK(kConfig, s.placement != Placement::v || v == 2,
               "v schedules assume 2 stages per rank, got {}\n  {} with {} ranks needs {} stages: "
               "rank r holds stages r and {} - r.",
               v, s.name, p, 2 * p, 2 * p - 1);
}

}  // namespace

std::vector<std::string> schedule_names() {
  std::vector<std::string> out;
  for (const ScheduleRow& row : kSchedules) out.emplace_back(row.name);
  return out;
}

std::string canonical_schedule_name(const std::string& name) { return known(name).name; }

bool is_single_stage(const std::string& name) {
  const ScheduleRow* row = find(name);
  return row != nullptr && row->placement == Placement::one;
}

Schedule make_schedule(const std::string& name, int p, int v, int m, int pending_wgrads) {
  const ScheduleRow& row = known(name);
  NEREUS_CHECK(
      kConfig, p >= 1 && v >= 1 && m >= 1,
      "A pipeline of {} ranks, {} stages a rank and {} microbatches: each must be at least "
      "1.",
      p, v, m);
  check_stages(row, p, v);
  if (row.check_microbatches != nullptr) row.check_microbatches(p, m);

  Schedule out{.name = row.name, .microbatches = m};
  for (int s = 0; s < p * v; ++s)
    out.rank_of_stage.push_back(row.placement == Placement::v && s >= p ? 2 * p - 1 - s : s % p);
  for (int r = 0; r < p; ++r) {
    List list(p * v, pending_wgrads);
    row.write(list, p, r, v, m);
    out.actions.push_back(list.take(m));
  }
  const auto apart = [](const std::vector<Action>& list) {
    return std::any_of(list.begin(), list.end(),
                       [](const Action& a) { return a.kind == Kind::backward_input; });
  };
  NEREUS_CHECK(kConfig,
               pending_wgrads == -1 || std::any_of(out.actions.begin(), out.actions.end(), apart),
               "{} with {} pending wgrads: its backward passes are whole, and none waits.\n  "
               "InterleavedZeroBubble, ZBVZeroBubble and DualPipeV have dgrad and wgrad apart; -1 "
               "is right for the others.",
               row.name, pending_wgrads);
  add_communication(out);
  return out;
}

}  // namespace nereus
