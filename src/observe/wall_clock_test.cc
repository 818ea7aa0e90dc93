#include "observe/wall_clock.h"

#include <gtest/gtest.h>

#include <cmath>

namespace nereus {
namespace {

TEST(WallClock, FollowsTheSystemsClockAndNeverGoesBackWithIt) {
  double system = 1000, steady = 5;
  WallClock clock([&] { return system; }, [&] { return steady; });
  EXPECT_EQ(clock.now(), 1000);
  system = 5000, steady = 6;  // set forward
  EXPECT_EQ(clock.now(), 5000);
  system = 100, steady = 8;  // set back
  EXPECT_EQ(clock.now(), 5002);
  system = 103, steady = 11;
  EXPECT_EQ(clock.now(), 5005);
  system = 6000, steady = 12;
  EXPECT_EQ(clock.now(), 6000);
}

}  // namespace
}  // namespace nereus
