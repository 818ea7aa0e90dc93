#include "pipeline/simulator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nereus {
namespace {

using Kind = Action::Kind;
using testing::ElementsAre;
using testing::HasSubstr;

Simulation run(const char* name, int p, int v, int m, const StageCosts& costs = {}) {
  return simulate(make_schedule(name, p, v, m), costs);
}

TEST(Simulator, EveryScheduleEndsAtEverySizeWhateverTheCosts) {
  for (const int p : {1, 2, 3, 4, 7, 8, 16}) {
    for (const int m : {1, 2, 3, 4, 6, 8, 16, 31, 32, 64}) {
      for (const StageCosts& costs :
           {StageCosts{}, StageCosts{.forward = 1, .dgrad = 1.3, .wgrad = 0.7, .transfer = 0.5},
            StageCosts{.forward = 3, .dgrad = 1, .wgrad = 9, .head = 5, .transfer = 20}}) {
        const auto ends = [&](const char* name, int v) {
          const Simulation s = run(name, p, v, m, costs);
          ASSERT_TRUE(s.stuck.empty()) << name << " " << p << " " << m << ": " << s.stuck[0];
          // All work is done, and no rank does two things at once.
          const double stage = (costs.forward + costs.dgrad + costs.wgrad) * m;
          double busy = 0;
          for (const Simulation::Rank& r : s.ranks) busy += r.busy;
          ASSERT_NEAR(busy, stage * p * v + costs.head * m, 1e-6 * busy);
          for (const auto& spans : s.spans)
            for (size_t i = 1; i < spans.size(); ++i)
              ASSERT_LE(spans[i - 1].end, spans[i].begin + 1e-9);
          ASSERT_GE(s.bubble, -1e-9);
        };
        ends("GPipe", 1);
        ends("1F1B", 1);
        for (const int v : {2, 3, 8}) {
          ends("LoopedBFS", v);
          if (m % std::max(1, m / p) != 0) continue;
          ends("Interleaved1F1B", v);
          ends("InterleavedZeroBubble", v);
        }
        ends("ZBVZeroBubble", 2);
        if (m >= 2 * p) ends("DualPipeV", 2);
      }
    }
  }
}

TEST(Simulator, BubblesAreThoseOfTheClosedFormulas) {
  for (const int p : {1, 2, 4, 8}) {
    for (const int rounds : {1, 2, 4}) {
      const int m = p * rounds;
      // F and B of any cost: (p - 1) / (m + p - 1).
      for (const StageCosts& costs : {StageCosts{}, StageCosts{1, 1.4, 0.8, 0, 0}}) {
        EXPECT_NEAR(run("GPipe", p, 1, m, costs).bubble, (p - 1.0) / (m + p - 1), 1e-12);
        EXPECT_NEAR(run("1F1B", p, 1, m, costs).bubble, (p - 1.0) / (m + p - 1), 1e-12);
        for (const int v : {2, 4}) {
          EXPECT_NEAR(run("Interleaved1F1B", p, v, m, costs).bubble, (p - 1.0) / (m * v + p - 1),
                      1e-12);
          EXPECT_NEAR(run("LoopedBFS", p, v, m, costs).bubble, (p - 1.0) / (m * v + p - 1), 1e-12);
        }
      }
    }
  }
}

TEST(Simulator, BubblesOfPublishedRecipes) {
  const auto percent = [](const Simulation& s) { return 100 * s.bubble; };
  EXPECT_NEAR(percent(run("1F1B", 8, 1, 16)), 30.4, 0.05);             // TorchTitan, H100
  EXPECT_NEAR(percent(run("Interleaved1F1B", 8, 4, 256)), 0.7, 0.05);  // Megatron-Bridge
  EXPECT_NEAR(percent(run("Interleaved1F1B", 8, 4, 128)), 1.3, 0.05);  // the same, 25.09
  EXPECT_NEAR(percent(run("Interleaved1F1B", 4, 8, 8)), 4.5, 0.05);    // AutoModel
  EXPECT_NEAR(percent(run("Interleaved1F1B", 8, 4, 16)), 9.9, 0.05);
}

// DeepSeek-V3's table of 1F1B, ZB1P and DualPipe: idle time of a rank. B is I and W together.
TEST(Simulator, IdleTimesAreThoseOfDeepSeeksTable) {
  const StageCosts costs{.forward = 2, .dgrad = 2.5, .wgrad = 1.5};
  const double F = costs.forward, I = costs.dgrad, W = costs.wgrad, B = I + W;
  for (const int p : {2, 4, 8}) {
    const int m = 4 * p;
    const auto idle = [&](const char* name, int v) {
      const Simulation s = run(name, p, v, m, costs);
      return s.makespan * s.bubble;
    };
    EXPECT_NEAR(idle("1F1B", 1), (p - 1) * (F + B), 1e-9);
    // DualPipe's (PP/2 - 1)(F&B + B - 3W) with PP/2 = p ranks; F&B here is F + B: no gain counted.
    // Unequal costs leave a little less than the formula (5.0 of 5.5 for p = 2).
    EXPECT_LE(idle("DualPipeV", 2), (p - 1) * (F + B + B - 3 * W) + 1e-9);
    // ZB1P: (p - 1)(F + B - 2W), of a rank's whole part; here a stage is half of it.
    EXPECT_NEAR(idle("InterleavedZeroBubble", 2), (p - 1) * (F + B - 2 * W), 1e-9);
  }
}

TEST(Simulator, ZeroBubbleVWaitsOnlyAtItsEndsWhenCostsAreEqual) {
  for (const int p : {2, 4, 8}) {
    const int m = 4 * p;
    const Simulation s = run("ZBVZeroBubble", p, 2, m);
    EXPECT_DOUBLE_EQ(s.makespan, 6.0 * m + p - 1);
    for (int r = 0; r < p; ++r) {
      // First action to last without a gap.
      double first = s.makespan, last = 0;
      const Schedule schedule = make_schedule("ZBVZeroBubble", p, 2, m);
      for (size_t i = 0; i < s.spans[static_cast<size_t>(r)].size(); ++i) {
        if (!schedule.actions[static_cast<size_t>(r)][i].computes()) continue;
        first = std::min(first, s.spans[static_cast<size_t>(r)][i].begin);
        last = std::max(last, s.spans[static_cast<size_t>(r)][i].end);
      }
      EXPECT_DOUBLE_EQ(last - first, 6.0 * m) << "rank " << r << " of " << p;
    }
  }
}

TEST(Simulator, PeakActivationsAreThoseOfTheSchedules) {
  for (const int p : {2, 4, 8}) {
    const int m = 4 * p;
    const Simulation one = run("1F1B", p, 1, m), all = run("GPipe", p, 1, m);
    for (int r = 0; r < p; ++r) {
      EXPECT_EQ(one.ranks[static_cast<size_t>(r)].held_for_wgrad, p - r);
      EXPECT_EQ(all.ranks[static_cast<size_t>(r)].held_for_wgrad, m);
    }
    EXPECT_EQ(one.peak_activations(1), p);
    // Interleaved: (v - 1) p + 2 (p - 1) + 1 stages' worth on rank 0.
    EXPECT_EQ(run("Interleaved1F1B", p, 2, m).ranks[0].held_for_wgrad, p + 2 * (p - 1) + 1);
    // ZBV holds on every rank what 1F1B's first rank holds.
    for (const Simulation::Rank& r : run("ZBVZeroBubble", p, 2, m).ranks)
      EXPECT_EQ(r.held_for_dgrad, 2 * p);
    // DualPipe(V): one stage more.
    for (const Simulation::Rank& r : run("DualPipeV", p, 2, m).ranks)
      EXPECT_LE(r.held_for_dgrad, 2 * p + 1);
  }
}

TEST(Simulator, TransferTimeIsWaitedForWhereTheScheduleHasNoSlack) {
  EXPECT_DOUBLE_EQ(run("1F1B", 2, 1, 1, {.transfer = 10}).makespan, 1 + 10 + 3 + 10 + 2);
  EXPECT_DOUBLE_EQ(run("1F1B", 2, 1, 1, {.head = 4}).makespan, 1 + 5 + 2 + 2);
}

TEST(Simulator, RanksThatWaitForEachOtherAreNamed) {
  Schedule s{.name = "by hand", .microbatches = 1, .rank_of_stage = {0, 1}};
  s.actions = {{{.kind = Kind::backward}, {.kind = Kind::forward}},
               {{.kind = Kind::forward, .stage = 1}, {.kind = Kind::backward, .stage = 1}}};
  add_communication(s);
  EXPECT_THAT(simulate(s, {}).stuck,
              ElementsAre("rank 0 is stuck at 0WAIT_B0 (action 3 of 8): rank 1 has not sent the "
                          "gradient of microbatch 0 for stage 0",
                          "rank 1 is stuck at 1WAIT_F0 (action 3 of 8): rank 0 has not sent the "
                          "activation of microbatch 0 for stage 1"));
}

TEST(Simulator, AReceiveInAnotherOrderThanTheSendsIsNamed) {
  Schedule s = make_schedule("GPipe", 2, 1, 2);
  std::vector<Action>& one = s.actions[1];
  const auto recv = [&](int m) {
    return std::find_if(one.begin(), one.end(),
                        [&](const Action& a) { return a.kind == Kind::recv && a.microbatch == m; });
  };
  std::iter_swap(recv(0), recv(1));
  const Simulation out = simulate(s, {});
  ASSERT_EQ(out.stuck.size(), 2u);
  EXPECT_THAT(out.stuck[1],
              HasSubstr("rank 0 sent the activation of microbatch 0 for stage 1 first, and this "
                        "rank asked for the activation of microbatch 1 for stage 1 first"));
}

TEST(Simulator, AnEdgeThatNobodyWaitsForIsNotThere) {
  Schedule s = make_schedule("GPipe", 2, 1, 1);
  std::erase_if(s.actions[1], [](const Action& a) { return a.kind == Kind::wait; });
  EXPECT_THAT(simulate(s, {}).stuck[1],
              HasSubstr("the activation of microbatch 0 for stage 1 is not there"));
}

// What a step of the recipe takes over one without bubble and without recompute: 8 blocks a rank,
// 16 microbatches on 8 ranks, milliseconds of a block on an H100.
TEST(Simulate, TheRecipesStepsOverTheIdeal) {
  struct Case {
    const char* schedule;
    int stages_per_rank, pending;
    double replay, want;
  };
  constexpr double kForward = 9.1, kDgrad = 12.7, kWgrad = 7.25;
  constexpr double kFull = 7.7, kSelective = 1.0, kGateUp = 2.8;
  for (const Case& c :
       {Case{"Interleaved1F1B", 2, -1, kFull, 1.54}, Case{"1F1B", 1, -1, kSelective, 1.49},
        // gate_up of every second block
        Case{"InterleavedZeroBubble", 4, 1, kSelective + kGateUp / 2, 1.174}}) {
    const double blocks = 8.0 / c.stages_per_rank;
    const Schedule s = make_schedule(c.schedule, 8, c.stages_per_rank, 16, c.pending);
    const Simulation got = simulate(s, {.forward = blocks * kForward,
                                        .dgrad = blocks * (kDgrad + c.replay),
                                        .wgrad = blocks * kWgrad});
    EXPECT_NEAR(got.makespan / (16 * 8 * (kForward + kDgrad + kWgrad)), c.want, 0.005)
        << c.schedule;
  }
}

}  // namespace
}  // namespace nereus
