#include "pipeline/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "base/error.h"

namespace nereus {
namespace {

using Item = StageMemory::Item;
using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr int64_t kUnit = 256;

// Every stage of the rank with these bytes; of others none. The ends of the pipeline have one edge.
std::vector<StageMemory> needs(const Schedule& s, int rank,
                               std::array<int64_t, StageMemory::kItems> units) {
  std::vector<StageMemory> out(static_cast<size_t>(s.stages()));
  for (const int stage : s.stages_of(rank)) {
    StageMemory& m = out[static_cast<size_t>(stage)];
    for (size_t i = 0; i < units.size(); ++i) m.bytes[i] = units[i] * kUnit;
    if (stage == 0) m.bytes[StageMemory::input] = 0;
    if (stage + 1 == s.stages()) m.bytes[StageMemory::gradient] = 0;
  }
  return out;
}

// What the header's table says, for one rank's list, written down once more: bytes by their place,
// each with who has them. Fails where two have the same byte.
class Memory {
 public:
  Memory(const MemoryPlan& plan, const std::vector<StageMemory>& needs)
      : plan_(plan), needs_(needs) {}

  void take(int stage, int microbatch, Item item) {
    const int64_t bytes = needs_[static_cast<size_t>(stage)].bytes[item];
    if (bytes == 0) return;
    const int64_t at = plan_.place(stage, microbatch, item);
    EXPECT_EQ(at % kUnit, 0);
    EXPECT_LE(at + bytes, plan_.bytes());
    for (const auto& [begin, end] : taken_)
      EXPECT_TRUE(at + bytes <= begin || end <= at)
          << "item " << item << " of microbatch " << microbatch << " of stage " << stage;
    taken_.emplace_back(at, at + bytes);
    sum_ += bytes;
    most_ = std::max(most_, sum_);
  }
  void give_back(int stage, int microbatch, Item item) {
    const int64_t bytes = needs_[static_cast<size_t>(stage)].bytes[item];
    if (bytes == 0) return;
    const std::pair<int64_t, int64_t> at{plan_.place(stage, microbatch, item),
                                         plan_.place(stage, microbatch, item) + bytes};
    const auto found = std::find(taken_.begin(), taken_.end(), at);
    ASSERT_NE(found, taken_.end());
    taken_.erase(found);
    sum_ -= bytes;
  }
  int64_t most() const { return most_; }
  bool empty() const { return taken_.empty(); }

 private:
  const MemoryPlan& plan_;
  const std::vector<StageMemory>& needs_;
  std::vector<std::pair<int64_t, int64_t>> taken_;
  int64_t sum_ = 0, most_ = 0;
};

void play(const std::vector<Action>& actions, const Schedule& s, Memory& memory) {
  const auto arrive = [&](const Edge& e) {
    memory.take(e.consumer, e.microbatch,
                e.kind == Edge::Kind::activation ? StageMemory::input : StageMemory::gradient);
  };
  for (const Action& a : actions) {
    if (a.kind == Action::Kind::wait) arrive(edge_of(a));
    for (const Edge& e : edges_produced(a, s.stages()))
      if (s.rank_of_stage[static_cast<size_t>(e.consumer)] ==
          s.rank_of_stage[static_cast<size_t>(e.producer())])
        arrive(e);
    if (a.has_forward())
      for (const Item item : {StageMemory::for_dgrad, StageMemory::for_wgrad})
        memory.take(a.stage, a.microbatch, item);
    const int stage = a.dgrad_stage(), m = a.dgrad_microbatch();
    if (a.has_dgrad()) {
      memory.take(stage, m, StageMemory::pending);
      for (const Item item : {StageMemory::input, StageMemory::for_dgrad})
        memory.give_back(stage, m, item);
    }
    if (a.has_wgrad())
      for (const Item item : {StageMemory::gradient, StageMemory::for_wgrad, StageMemory::pending})
        memory.give_back(stage, m, item);
  }
}

// Messages of a pair come in the order in which they are waited for: schedules with loops and V's.
TEST(MemoryPlan, NoTwoThatAreThereAtOnceHaveTheSameByteInAnySchedule) {
  for (const std::string& name : schedule_names())
    for (const int p : {1, 2, 4})
      for (const int m : {2 * p, 5 * p}) {
        SCOPED_TRACE(testing::Message() << name << ", " << p << " ranks, " << m << " microbatches");
        const Schedule s = make_schedule(name, p, is_single_stage(name) ? 1 : 2, m);
        for (int r = 0; r < p; ++r) {
          const std::vector<Action>& actions = s.actions[static_cast<size_t>(r)];
          const std::vector<StageMemory> need = needs(s, r, {1, 1, 7, 3, 11});
          const MemoryPlan plan(actions, s.rank_of_stage, need);
          Memory memory(plan, need);
          play(actions, s, memory);
          EXPECT_TRUE(memory.empty());
          EXPECT_LE(memory.most(), plan.held());
          // What passes make for another stage of the rank is counted from the pass's begin on.
          EXPECT_LE(plan.held(), memory.most() + 2 * kUnit);
          EXPECT_LE(plan.bytes(), plan.held() * 9 / 8) << "much lies empty";
        }
      }
}

TEST(MemoryPlan, CountsMicrobatchesAsTheScheduleHasThem) {
  // Rank r of 1F1B has p - r microbatches in flight, and one gradient at a time.
  for (int r = 0; r < 4; ++r) {
    const Schedule s = make_schedule("1F1B", 4, 1, 8);
    const std::vector<StageMemory> need = needs(s, r, {1, 1, 10, 0, 0});
    const MemoryPlan plan(s.actions[static_cast<size_t>(r)], s.rank_of_stage, need);
    EXPECT_EQ(plan.most(r, StageMemory::for_dgrad), 4 - r);
    EXPECT_EQ(plan.most(r, StageMemory::gradient), r == 3 ? 0 : 1);
    const int64_t edges = (r == 0 ? 0 : 4 - r) + (r == 3 ? 0 : 1);
    EXPECT_EQ(plan.bytes(), ((4 - r) * 10 + edges) * kUnit);
  }
  // A V has wgrads pending; each keeps what it will read, and not what dgrad was given.
  const Schedule v = make_schedule("ZBVZeroBubble", 4, 2, 16);
  const std::vector<StageMemory> need = needs(v, 0, {0, 0, 10, 5, 20});
  const MemoryPlan plan(v.actions[0], v.rank_of_stage, need);
  int pending = 0;
  for (const int stage : {0, 7}) pending += plan.most(stage, StageMemory::pending);
  EXPECT_LT(pending, plan.most(0, StageMemory::for_wgrad) + plan.most(7, StageMemory::for_wgrad));
}

TEST(MemoryPlan, AnEvaluationHasOneMicrobatchGoForwardStageByStage) {
  const Schedule s = make_schedule("LoopedBFS", 1, 3, 4);
  const std::vector<StageMemory> need = needs(s, 0, {2, 0, 10, 5, 0});
  const MemoryPlan plan(s.actions[0], s.rank_of_stage, need, false);
  // A stage's input and what it keeps, and the input of the next.
  EXPECT_EQ(plan.held(), (2 + 10 + 5 + 2) * kUnit);
  EXPECT_THAT([&] { plan.place(0, 1, StageMemory::for_dgrad); },
              ThrowsMessage<Error>(HasSubstr("microbatch 1 of stage 0 has no memory")));
}

}  // namespace
}  // namespace nereus
