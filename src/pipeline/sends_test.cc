#include "pipeline/sends.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"

namespace nereus {
namespace {

using Kind = Action::Kind;

TEST(Sends, OfSchedules) {
  EXPECT_EQ(sends_needed(sequential_schedule(3)), 0);
  EXPECT_EQ(sends_needed(make_schedule("1F1B", 4, 1, 8)), 1);
  EXPECT_EQ(sends_needed(make_schedule("ZBVZeroBubble", 2, 2, 8)), 2);
  // A rank runs one stage for all microbatches before its next, which the last rank feeds.
  EXPECT_EQ(sends_needed(make_schedule("LoopedBFS", 4, 2, 64)), 16);
  EXPECT_EQ(messages_waiting(make_schedule("1F1B", 4, 1, 8)), 4);
  EXPECT_EQ(messages_waiting(make_schedule("LoopedBFS", 4, 2, 64)), 17);
}

// Both send three before they receive: with less memory than for three, each waits for the other.
TEST(Sends, RanksThatSendBeforeTheyReceiveNeedMemoryForAllOfIt) {
  Schedule s{.name = "both", .microbatches = 3, .rank_of_stage = {0, 1, 1, 0}, .actions = {{}, {}}};
  const auto message = [](Kind kind, int stage, int m, int peer) {
    return Action{.kind = kind, .stage = stage, .microbatch = m, .peer = peer};
  };
  for (int m = 0; m < 3; ++m) {
    s.actions[0].push_back(message(Kind::send, 0, m, 1));
    s.actions[1].push_back(message(Kind::send, 2, m, 0));
  }
  for (int m = 0; m < 3; ++m) {
    s.actions[0].push_back(message(Kind::wait, 3, m, 1));
    s.actions[1].push_back(message(Kind::wait, 1, m, 0));
  }
  EXPECT_EQ(sends_needed(s), 3);
  // A wait for the last takes those before it; one for what is never sent does not end.
  s.actions[1] = {message(Kind::wait, 1, 2, 0)};
  s.actions[0].resize(3);
  EXPECT_EQ(sends_needed(s), 3);
  std::swap(s.actions[0][0], s.actions[0][2]);
  EXPECT_EQ(sends_needed(s), 2);  // it is sent first, and the others are taken by nobody
}

}  // namespace
}  // namespace nereus
