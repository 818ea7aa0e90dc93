#include "pipeline/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <set>

#include "base/error.h"
#include "pipeline/simulator.h"

namespace nereus {
namespace {

using Kind = Action::Kind;
using testing::HasSubstr;
using testing::ThrowsMessage;

struct Case {
  std::string name;
  int p, v, m;
};

// Every schedule at many sizes, one microbatch and fewer than ranks among them.
std::vector<Case> cases() {
  std::vector<Case> out;
  for (const int p : {1, 2, 3, 4, 5, 8}) {
    for (const int m : {1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 24, 32}) {
      for (const char* name : {"GPipe", "1F1B"}) out.push_back({name, p, 1, m});
      for (const int v : {2, 3, 4}) {
        out.push_back({"LoopedBFS", p, v, m});
        if (m % std::max(1, m / p) != 0) continue;
        out.push_back({"Interleaved1F1B", p, v, m});
        out.push_back({"InterleavedZeroBubble", p, v, m});
      }
      out.push_back({"ZBVZeroBubble", p, 2, m});
      if (m >= 2 * p) out.push_back({"DualPipeV", p, 2, m});
    }
  }
  return out;
}

Schedule make(const Case& c) { return make_schedule(c.name, c.p, c.v, c.m); }
std::string text(const Case& c) {
  return c.name + " p " + std::to_string(c.p) + " v " + std::to_string(c.v) + " m " +
         std::to_string(c.m);
}

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::kConfig);
    return e.what();
  }
  return "no error";
}

std::string line(const std::vector<Action>& actions, bool compute_only = true) {
  std::string out;
  for (const Action& a : actions)
    if (a.computes() || !compute_only) out += (out.empty() ? "" : " ") + a.to_string();
  return out;
}

TEST(Schedule, TheCasesBelowHaveEveryScheduleOfTheTable) {
  std::set<std::string> names;
  for (const Case& c : cases()) names.insert(c.name);
  EXPECT_THAT(schedule_names(), testing::UnorderedElementsAreArray(names));
}

TEST(Schedule, EveryScheduleIsAStepAtEverySize) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(text(c));
    const Schedule s = make(c);
    ASSERT_EQ(s.ranks(), c.p);
    ASSERT_EQ(s.stages(), c.p * c.v);
    ASSERT_EQ(violation(s), "");
    for (int r = 0; r < c.p; ++r) ASSERT_EQ(s.stages_of(r).size(), static_cast<size_t>(c.v));
  }
}

// Who has which edge at which time, counted without the generator's or the simulator's code.
TEST(Schedule, EveryEdgeIsSentAndReceivedOnceAndWaitedForBeforeItsUse) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(text(c));
    const Schedule s = make(c);
    const int S = s.stages();
    using Key = std::tuple<int, int, Edge::Kind, Kind>;  // user, microbatch, edge, send...
    std::map<Key, int> count;
    for (int r = 0; r < c.p; ++r) {
      std::set<std::pair<int, int>> made_y, made_dx;  // stage, microbatch
      std::set<std::tuple<int, int, Edge::Kind>> here;
      for (const Action& a : s.actions[static_cast<size_t>(r)]) {
        if (a.kind == Kind::send) {
          ASSERT_EQ(
              (a.edge == Edge::Kind::activation ? made_y : made_dx).count({a.stage, a.microbatch}),
              1u)
              << a.to_string() << " before it is made";
          const int user = a.stage + (a.edge == Edge::Kind::activation ? 1 : -1);
          ASSERT_EQ(a.peer, s.rank_of_stage[static_cast<size_t>(user)]);
          ++count[{user, a.microbatch, a.edge, a.kind}];
        }
        if (a.kind == Kind::recv || a.kind == Kind::wait) {
          ++count[{a.stage, a.microbatch, a.edge, a.kind}];
          if (a.kind == Kind::wait) {
            ASSERT_EQ((count[{a.stage, a.microbatch, a.edge, Kind::recv}]), 1) << a.to_string();
            here.insert({a.stage, a.microbatch, a.edge});
          }
        }
        const auto need = [&](int stage, int from, int m, Edge::Kind edge) {
          if (from < 0 || from >= S) return;
          if (s.rank_of_stage[static_cast<size_t>(from)] != r) {
            ASSERT_EQ(here.count({stage, m, edge}), 1u) << a.to_string();
          } else {
            ASSERT_EQ((edge == Edge::Kind::activation ? made_y : made_dx).count({from, m}), 1u)
                << a.to_string();
          }
        };
        if (a.has_forward()) need(a.stage, a.stage - 1, a.microbatch, Edge::Kind::activation);
        if (a.has_dgrad())
          need(a.dgrad_stage(), a.dgrad_stage() + 1, a.dgrad_microbatch(), Edge::Kind::gradient);
        if (a.has_forward()) made_y.insert({a.stage, a.microbatch});
        if (a.has_dgrad()) made_dx.insert({a.dgrad_stage(), a.dgrad_microbatch()});
      }
    }
    int crossing = 0;
    for (int stage = 0; stage + 1 < S; ++stage)
      if (s.rank_of_stage[static_cast<size_t>(stage)] !=
          s.rank_of_stage[static_cast<size_t>(stage) + 1])
        ++crossing;
    ASSERT_EQ(count.size(), static_cast<size_t>(2 * 3 * crossing * c.m));
    for (const auto& [key, n] : count) ASSERT_EQ(n, 1);
  }
}

TEST(Schedule, WeightsAreGatheredBeforeAndGradientsReducedAfterTheirUse) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(text(c));
    const Schedule s = make(c);
    for (const std::vector<Action>& actions : s.actions) {
      std::set<int> gathered, reduced;
      for (const Action& a : actions) {
        if (a.kind == Kind::gather) {
          ASSERT_TRUE(gathered.insert(a.stage).second);
        }
        if (a.kind == Kind::reduce) {
          ASSERT_TRUE(reduced.insert(a.stage).second);
        }
        if (!a.computes()) continue;
        ASSERT_TRUE(gathered.count(a.stage) == 1 && gathered.count(a.dgrad_stage()) == 1);
        ASSERT_TRUE(!a.has_wgrad() || reduced.count(a.dgrad_stage()) == 0);
      }
      ASSERT_EQ(gathered.size(), static_cast<size_t>(c.v));
      ASSERT_EQ(reduced.size(), static_cast<size_t>(c.v));
      ASSERT_EQ(actions.back().kind, Kind::update);
      ASSERT_EQ(std::count_if(actions.begin(), actions.end(),
                              [](const Action& a) { return a.kind == Kind::update; }),
                1);
    }
  }
}

TEST(Schedule, OneForwardOneBackwardIsAsPublished) {
  const Schedule s = make_schedule("1f1b", 3, 1, 4);
  EXPECT_EQ(s.name, "1F1B");
  EXPECT_EQ(line(s.actions[0]), "0F0 0F1 0F2 0B0 0F3 0B1 0B2 0B3");
  EXPECT_EQ(line(s.actions[1]), "1F0 1F1 1B0 1F2 1B1 1F3 1B2 1B3");
  EXPECT_EQ(line(s.actions[2]), "2F0 2B0 2F1 2B1 2F2 2B2 2F3 2B3");
  EXPECT_EQ(line(make_schedule("1F1B", 2, 1, 1).actions[1], false),
            "1UNSHARD 1RECV_F0 1WAIT_F0 1F0 1B0 1SEND_B0 1REDUCE_GRAD UPDATE");
}

TEST(Schedule, OtherSchedulesAreAsPublished) {
  EXPECT_EQ(line(make_schedule("GPipe", 2, 1, 2).actions[0]), "0F0 0F1 0B0 0B1");
  EXPECT_EQ(line(make_schedule("LoopedBFS", 2, 2, 2).actions[1]),
            "1F0 1F1 3F0 3F1 3B1 3B0 1B1 1B0");
  // Megatron's interleaved order, p 2 v 2: the warm-up of rank 0 is (v - 1) p + 2 (p - 1) = 4.
  const Schedule s = make_schedule("Interleaved1F1B", 2, 2, 4);
  EXPECT_EQ(line(s.actions[0]), "0F0 0F1 2F0 2F1 0F2 2B0 0F3 2B1 2F2 0B0 2F3 0B1 2B2 2B3 0B2 0B3");
  EXPECT_EQ(line(s.actions[1]), "1F0 1F1 3F0 3B0 3F1 3B1 1F2 1B0 1F3 1B1 3F2 3B2 3F3 3B3 1B2 1B3");
  // ZBV of the paper's figure begins with 2p - 1 forwards on rank 0; the V turns on the last rank.
  const Schedule v = make_schedule("ZBVZeroBubble", 2, 2, 3);
  EXPECT_EQ(v.rank_of_stage, (std::vector<int>{0, 1, 1, 0}));
  EXPECT_THAT(line(v.actions[0]), testing::StartsWith("0F0 0F1 0F2 3F0 3I0 3W0 3F1 3I1 3W1 0I0"));
  EXPECT_THAT(line(v.actions[1]), testing::StartsWith("1F0 2F0 1F1 2F1 2I0"));
  // DualPipeV overlaps in the middle, but for the first pair at the turn.
  const Schedule d = make_schedule("DualPipeV", 2, 2, 4);
  EXPECT_EQ(line(d.actions[0]),
            "0F0 0F1 0F2 3F0 3I0 3W0 3F1 (0F3;3B1)OVERLAP_F_B (3F2;0B0)OVERLAP_F_B 3B2 "
            "(3F3;0B1)OVERLAP_F_B 3B3 0I2 0W2 0I3 0W3");
  EXPECT_THAT(line(d.actions[1]),
              testing::StartsWith("1F0 2F0 1F1 2F1 1F2 2B0 (2F2;1B0)OVERLAP_F_B"));
}

TEST(Schedule, TheSequentialScheduleIsOneStageOfOneRank) {
  EXPECT_EQ(line(sequential_schedule(2).actions[0], false),
            "0UNSHARD 0F0 0B0 0F1 0B1 0REDUCE_GRAD UPDATE");
  EXPECT_EQ(sequential_schedule(3).actions[0], make_schedule("1F1B", 1, 1, 3).actions[0]);
  EXPECT_EQ(microbatches_in_flight(sequential_schedule(5).actions[0]), 1);
  EXPECT_EQ(microbatches_in_flight(make_schedule("GPipe", 2, 1, 5).actions[0]), 5);
  EXPECT_EQ(microbatches_in_flight(make_schedule("1F1B", 4, 1, 9).actions[1]), 3);
}

TEST(Schedule, WhatCannotBeIsRefusedWithTheRemedy) {
  const auto refusal = [](const char* name, int p, int v, int m) {
    return message_of([&] { make_schedule(name, p, v, m); });
  };
  EXPECT_EQ(refusal("1F2B", 2, 1, 4),
            "Unknown schedule name '1F2B'. The valid options are 1F1B, Interleaved1F1B, GPipe, "
            "LoopedBFS, InterleavedZeroBubble, ZBVZeroBubble, DualPipeV; did you mean 1F1B?");
  EXPECT_EQ(refusal("GPipe", 4, 2, 4),
            "Single stage schedule requires exactly 1 stage per rank, but got 2 stages per rank.\n"
            "  GPipe with 4 ranks: use Interleaved1F1B for 8 stages, or make one stage a rank.");
  EXPECT_EQ(refusal("LoopedBFS", 4, 1, 4),
            "Multi-stage schedule requires at least 2 stages per rank, but got 1 stages per rank.\n"
            "  LoopedBFS with 4 ranks: make 8 stages or more, or use 1F1B.");
  EXPECT_EQ(refusal("zbvzerobubble", 4, 3, 8),
            "v schedules assume 2 stages per rank, got 3\n"
            "  ZBVZeroBubble with 4 ranks needs 8 stages: rank r holds stages r and 7 - r.");
  EXPECT_EQ(
      refusal("DualPipeV", 4, 2, 7),
      "DualPipeV requires at least as many microbatches as stages, but got 7 microbatches and "
      "8 stages.\n  Use 8 microbatches or more, fewer ranks, or ZBVZeroBubble.");
  EXPECT_EQ(
      refusal("Interleaved1F1B", 4, 2, 9),
      "Interleaved 1F1B requires the number of microbatches to be a multiple of the number of "
      "rounds (2), but got 9.\n"
      "  A round is at least as many microbatches as ranks (4): use 8 or 12 microbatches.");
  EXPECT_THAT(refusal("InterleavedZeroBubble", 4, 2, 9), HasSubstr("Zero bubble requires"));
  EXPECT_THAT(refusal("1F1B", 0, 1, 1), HasSubstr("each must be at least 1"));
}

TEST(Schedule, AListThatIsNoStepIsDescribed) {
  const auto broken = [](const std::function<void(std::vector<Action>&)>& change) {
    Schedule s = make_schedule("1F1B", 2, 1, 2);
    change(s.actions[0]);
    return violation(s);
  };
  const auto at = [](std::vector<Action>& actions, Kind kind) -> Action& {
    return *std::find_if(actions.begin(), actions.end(),
                         [&](const Action& a) { return a.kind == kind; });
  };
  EXPECT_EQ(broken([&](auto& a) { at(a, Kind::forward).microbatch = 1; }),
            "0F1 of rank 0 is its second forward");
  EXPECT_EQ(broken([&](auto& a) { at(a, Kind::forward).microbatch = 2; }),
            "0F2 of rank 0 is outside of 2 stages and 2 microbatches");
  EXPECT_EQ(broken([&](auto& a) { at(a, Kind::forward).stage = 1; }),
            "1F0 is on rank 0, and stage 1 on rank 1");
  EXPECT_EQ(broken([&](auto& a) { at(a, Kind::backward).kind = Kind::backward_weight; }),
            "0W0 of rank 0 does not follow its dgrad");
  EXPECT_EQ(broken([&](auto& a) { at(a, Kind::backward).kind = Kind::backward_input; }),
            "microbatch 0 has no wgrad (B or W) on stage 0");
  EXPECT_EQ(broken([&](auto& a) { std::reverse(a.begin(), a.end()); }),
            "0B1 of rank 0 does not follow its forward");
}

TEST(Schedule, AsManyWgradsWaitAsAreAllowed) {
  const auto most_pending = [](const std::vector<Action>& actions) {
    int now = 0, most = 0;
    for (const Action& a : actions) {
      now += (a.kind == Action::Kind::backward_input) - (a.kind == Action::Kind::backward_weight);
      most = std::max(most, now);
    }
    return most;
  };
  for (const char* name : {"InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV"})
    for (const int p : {1, 2, 4})
      for (const int m : {2 * p, 4 * p})
        for (const int limit : {1, 2, 3}) {
          SCOPED_TRACE(testing::Message() << name << ", " << p << " ranks, " << m << ", " << limit);
          const Schedule free = make_schedule(name, p, 2, m),
                         s = make_schedule(name, p, 2, m, limit);
          EXPECT_EQ(violation(s), "");
          EXPECT_TRUE(simulate(s, {}).stuck.empty());
          for (size_t r = 0; r < s.actions.size(); ++r)
            EXPECT_LE(most_pending(s.actions[r]), std::min(limit, most_pending(free.actions[r])));
        }
  EXPECT_THAT([] { make_schedule("1F1B", 4, 1, 8, 1); },
              ThrowsMessage<Error>(HasSubstr(
                  "1F1B with 1 pending wgrads: its backward passes are whole, and none waits.")));
}

}  // namespace
}  // namespace nereus
