#include "pipeline/slots.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"

namespace nereus {
namespace {

using Kind = Action::Kind;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::ThrowsMessage;

TEST(Slots, TheLowestFreeSlotIsTaken) {
  Slots slots;
  EXPECT_EQ(slots.take(10), 0);
  EXPECT_EQ(slots.take(11), 1);
  EXPECT_EQ(slots.take(12), 2);
  EXPECT_EQ(slots.of(11), 1);
  slots.release(11);
  slots.release(10);
  EXPECT_EQ(slots.take(13), 0);
  EXPECT_EQ(slots.take(14), 1);
  EXPECT_EQ(slots.of(12), 2);
  EXPECT_EQ(slots.most(), 3);
}

TEST(Slots, AMicrobatchHasOneSlotFromTakeToRelease) {
  Slots slots;
  const auto message = [](const char* what) { return ThrowsMessage<Error>(HasSubstr(what)); };
  EXPECT_THAT([&] { slots.of(4); }, message("microbatch 4 has no slot"));
  EXPECT_THAT([&] { slots.release(4); }, message("microbatch 4 has no slot"));
  slots.take(4);
  EXPECT_THAT([&] { slots.take(4); }, message("microbatch 4 has a slot already"));
  slots.release(4);
  EXPECT_THAT([&] { slots.of(4); }, message("microbatch 4 has no slot"));
}

TEST(Slots, AWaitBringsWhatItsPeerSentBeforeToo) {
  const auto recv = [](int microbatch, Edge::Kind kind, int peer) {
    return Action{
        .kind = Kind::recv, .stage = 1, .microbatch = microbatch, .edge = kind, .peer = peer};
  };
  const auto activation = [&](int m) { return recv(m, Edge::Kind::activation, 0); };
  const auto gradient = [&](int m) { return recv(m, Edge::Kind::gradient, 2); };
  PostedReceives receives;
  for (const Action& a : {activation(0), gradient(0), activation(1), activation(2), gradient(1)})
    receives.post(a);
  const auto brought = [&](Action wait) {
    wait.kind = Kind::wait;
    std::vector<int> out;
    receives.complete(wait, [&](const Edge& e) {
      EXPECT_EQ(e.consumer, 1);
      EXPECT_EQ(e.kind, wait.edge);
      out.push_back(e.microbatch);
    });
    return out;
  };
  EXPECT_THAT(brought(activation(1)), ElementsAre(0, 1));
  EXPECT_THAT(brought(activation(0)), IsEmpty()) << "it came with microbatch 1";
  EXPECT_THAT(brought(gradient(0)), ElementsAre(0));
  EXPECT_THAT(brought(gradient(1)), ElementsAre(1));
  EXPECT_THAT(brought(activation(2)), ElementsAre(2));
}

// Of rank `rank`'s stages; other ranks' must need none.
std::vector<int> needed(const Schedule& s, int rank) {
  const std::vector<int> all = slots_needed(s.actions[static_cast<size_t>(rank)], s.rank_of_stage);
  std::vector<int> out;
  for (int stage = 0; stage < s.stages(); ++stage) {
    const int n = all[static_cast<size_t>(stage)];
    if (s.rank_of_stage[static_cast<size_t>(stage)] == rank)
      out.push_back(n);
    else
      EXPECT_EQ(n, 0) << "stage " << stage << " is another rank's";
  }
  return out;
}

TEST(Slots, AreAsManyAsMicrobatchesAreInFlight) {
  EXPECT_THAT(needed(sequential_schedule(9), 0), ElementsAre(1));
  for (const int p : {2, 3, 4})
    for (int r = 0; r < p; ++r) {
      EXPECT_THAT(needed(make_schedule("1F1B", p, 1, 4 * p), r), ElementsAre(p - r));
      EXPECT_THAT(needed(make_schedule("GPipe", p, 1, 5), r), ElementsAre(5));
      EXPECT_THAT(needed(make_schedule("LoopedBFS", p, 2, 5), r), ElementsAre(5, 5));
    }
}

// An activation waits in its slot: what a rank's own stage made, and what came with a later one.
TEST(Slots, AreTakenWhenTheActivationArrives) {
  Schedule two{.name = "two stages of one rank",
               .microbatches = 2,
               .rank_of_stage = {0, 0},
               .actions = {{{.kind = Kind::forward, .stage = 0, .microbatch = 0},
                            {.kind = Kind::forward, .stage = 0, .microbatch = 1},
                            {.kind = Kind::forward, .stage = 1, .microbatch = 0},
                            {.kind = Kind::backward, .stage = 1, .microbatch = 0},
                            {.kind = Kind::backward, .stage = 0, .microbatch = 0},
                            {.kind = Kind::forward, .stage = 1, .microbatch = 1},
                            {.kind = Kind::backward, .stage = 1, .microbatch = 1},
                            {.kind = Kind::backward, .stage = 0, .microbatch = 1}}}};
  EXPECT_THAT(needed(two, 0), ElementsAre(2, 2));
  // The second stage's rank begins with the microbatch that was sent last.
  Schedule late{.name = "two ranks",
                .microbatches = 2,
                .rank_of_stage = {0, 1},
                .actions = {{{.kind = Kind::forward, .microbatch = 0},
                             {.kind = Kind::forward, .microbatch = 1},
                             {.kind = Kind::backward, .microbatch = 1},
                             {.kind = Kind::backward, .microbatch = 0}},
                            {{.kind = Kind::forward, .stage = 1, .microbatch = 1},
                             {.kind = Kind::backward, .stage = 1, .microbatch = 1},
                             {.kind = Kind::forward, .stage = 1, .microbatch = 0},
                             {.kind = Kind::backward, .stage = 1, .microbatch = 0}}}};
  add_communication(late);
  EXPECT_THAT(needed(late, 1), ElementsAre(2));
}

}  // namespace
}  // namespace nereus
