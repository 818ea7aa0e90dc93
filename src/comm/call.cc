#include "comm/call.h"

#include <fmt/format.h>

namespace nereus {
namespace {

const char* kind_name(Call::Kind kind) {
  switch (kind) {
    case Call::Kind::none:
      return "nothing";
    case Call::Kind::all_reduce:
      return "all_reduce";
    case Call::Kind::all_gather:
      return "all_gather";
    case Call::Kind::reduce_scatter:
      return "reduce_scatter";
    case Call::Kind::all_to_all:
      return "all_to_all";
    case Call::Kind::broadcast:
      return "broadcast";
    case Call::Kind::barrier:
      return "barrier";
    case Call::Kind::split:
      return "split";
    case Call::Kind::send:
      return "send";
    case Call::Kind::recv:
      return "recv";
  }
  return "?";
}

}  // namespace

Call Call::of(Kind kind, ConstTensorView x, int64_t number, ReduceOp op, int64_t peer) {
  Call c;
  c.kind = kind;
  c.op = op;
  c.dtype = x.dtype;
  c.rank = static_cast<int16_t>(x.rank());
  c.number = number;
  for (int i = 0; i < x.rank(); ++i) c.shape[i] = x.dim(i);
  if (kind == Kind::all_to_all) c.shape[0] = -1;
  c.peer = peer;
  return c;
}

std::string Call::to_string() const {
  std::string text = fmt::format("{} number {}", kind_name(kind), number);
  if (kind == Kind::all_reduce || kind == Kind::reduce_scatter)
    text += op == ReduceOp::sum ? " (sum)" : " (max)";
  if (rank > 0) {
    text += fmt::format(" of {} [", name_of(dtype));
    for (int i = 0; i < rank; ++i)
      text += (i > 0 ? ", " : "") + (shape[i] < 0 ? std::string("rows") : std::to_string(shape[i]));
    text += "]";
  }
  if (kind == Kind::broadcast) text += fmt::format(" from rank {}", peer);
  if (kind == Kind::send) text += fmt::format(" to rank {}", peer);
  if (kind == Kind::recv) text += fmt::format(" from rank {}", peer);
  return text;
}

std::string rank_text(std::span<const int> members, int rank) {
  const int world = members[static_cast<size_t>(rank)];
  return world == rank ? fmt::format("rank {}", rank)
                       : fmt::format("rank {} (rank {} of the world)", rank, world);
}

std::string disagreement(const std::string& group, std::span<const int> members,
                         std::span<const Call> calls) {
  std::vector<Call> kinds;
  std::vector<std::vector<size_t>> who;
  for (size_t r = 0; r < calls.size(); ++r) {
    size_t i = 0;
    while (i < kinds.size() && !(kinds[i] == calls[r])) ++i;
    if (i == kinds.size()) {
      kinds.push_back(calls[r]);
      who.emplace_back();
    }
    who[i].push_back(r);
  }
  if (kinds.size() < 2) return "";
  std::string text =
      fmt::format("the {} ranks of group {} do not call the same:", calls.size(), group);
  constexpr size_t kListed = 8;
  for (size_t i = 0; i < kinds.size() && i < kListed; ++i) {
    const std::string more =
        who[i].size() > 1 ? fmt::format(" and {} more", who[i].size() - 1) : std::string();
    text += fmt::format("\n  {}{}: {}", rank_text(members, static_cast<int>(who[i][0])), more,
                        kinds[i].to_string());
  }
  if (kinds.size() > kListed) text += fmt::format("\n  and {} more", kinds.size() - kListed);
  return text;
}

std::string row_disagreement(const std::string& group, std::span<const int> members,
                             const Call& call, std::span<const int64_t* const> counts) {
  const size_t n = counts.size();
  for (size_t from = 0; from < n; ++from) {
    for (size_t to = 0; to < n; ++to) {
      const int64_t sent = counts[from][to], expected = counts[to][n + from];
      if (sent != expected)
        return fmt::format("{} of group {}: {} sends {} rows to {}, which expects {}",
                           call.to_string(), group, rank_text(members, static_cast<int>(from)),
                           sent, rank_text(members, static_cast<int>(to)), expected);
    }
  }
  return "";
}

std::string message_disagreement(const std::string& group, std::span<const int> members, int from,
                                 int to, const Call& sent, const Call& expected) {
  Call as_sent = expected;
  as_sent.kind = Call::Kind::send;
  as_sent.peer = to;
  if (sent == as_sent) return "";
  return fmt::format("{} and {} of group {} do not agree:\n  the one calls {}\n  the other {}",
                     rank_text(members, from), rank_text(members, to), group, sent.to_string(),
                     expected.to_string());
}

std::string RankActivity::to_string() const {
  if (call.kind == Call::Kind::none) return ended ? "it ended" : "it has called nothing yet";
  std::string what = fmt::format("{} of group {}", call.to_string(), group);
  if (step >= 0) what += fmt::format(" at step {}", step);
  if (ended) return "it ended after " + what;
  return inside ? "it is waiting in " + what : "it has done " + what + " and called nothing since";
}

void CurrentActivity::enter(const std::string& group, const Call& call) {
  const std::lock_guard lock(mutex_);
  now_.group = group;
  now_.call = call;
  now_.inside = true;
}

void CurrentActivity::leave() {
  const std::lock_guard lock(mutex_);
  now_.inside = false;
}

void CurrentActivity::end() {
  const std::lock_guard lock(mutex_);
  now_.ended = true;
}

RankActivity CurrentActivity::at(int64_t step) const {
  const std::lock_guard lock(mutex_);
  RankActivity now = now_;
  now.step = step;
  return now;
}

std::string time_out_message(const std::string& group, std::span<const int> members,
                             const Call& call, double seconds, std::span<const MissingRank> missing,
                             int64_t step) {
  std::string text = fmt::format("{} of group {}", call.to_string(), group);
  text += step < 0 ? ": " : fmt::format(", step {}: ", step);
  text += seconds < 0
              ? fmt::format("{} of its {} ranks will not come", missing.size(), members.size())
              : fmt::format("{} of its {} ranks did not come within {:g} s", missing.size(),
                            members.size(), seconds);
  constexpr size_t kListed = 8;
  for (size_t i = 0; i < missing.size() && i < kListed; ++i)
    text += fmt::format("\n  {}: {}", rank_text(members, missing[i].rank), missing[i].activity);
  if (missing.size() > kListed) text += fmt::format("\n  and {} more", missing.size() - kListed);
  return text;
}

}  // namespace nereus
