#include "report/samples.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace nereus::report {
namespace {

using testing::ElementsAre;
using testing::FieldsAre;

TEST(Samples, KeepsEveryPointOfAShortSeries) {
  Samples s(8);
  for (int i = 1; i <= 5; ++i) s.add(i, 10 * i);
  EXPECT_THAT(s.points(8), ElementsAre(FieldsAre(1, 10), FieldsAre(2, 20), FieldsAre(3, 30),
                                       FieldsAre(4, 40), FieldsAre(5, 50)));
  EXPECT_TRUE(s.means(8).empty());
}

TEST(Samples, KeepsTheExtremesOfAMillionPointsWhereTheyAre) {
  Samples s(64);
  for (int i = 1; i <= 1'000'000; ++i)
    s.add(i, i == 654'321 ? 99.0 : i == 123'457 ? -7.0 : std::sin(0.01 * i));
  const std::vector<Point> points = s.points(40);
  EXPECT_LE(points.size(), 44U);
  EXPECT_EQ(s.count(), 1'000'000);
  const auto has = [&](double x, double y) {
    for (const Point& p : points)
      if (p.x == x && p.y == y) return true;
    return false;
  };
  EXPECT_TRUE(has(654'321, 99));
  EXPECT_TRUE(has(123'457, -7));
  EXPECT_EQ(points.front().x, 1);
  EXPECT_EQ(points.back().x, 1'000'000);
  for (size_t i = 1; i < points.size(); ++i) EXPECT_LT(points[i - 1].x, points[i].x);
  // The mean of sine over whole periods is 0.
  for (const Point& p : s.means(40)) EXPECT_NEAR(p.y, 0, 0.02);
}

TEST(Samples, ForgetsWhatIsTrainedAgain) {
  Samples s(8);
  for (int i = 1; i <= 20; ++i) s.add(i, i == 15 ? 1000 : i);
  s.rewind(11);
  for (int i = 11; i <= 13; ++i) s.add(i, 100 + i);
  EXPECT_EQ(s.high(), 113);
  EXPECT_EQ(s.last().x, 13);
  for (const Point& p : s.points(8)) EXPECT_TRUE(p.y < 11 || p.y > 110) << p.x << " " << p.y;
}

TEST(Samples, AValueThatIsNotFiniteHidesNoOther) {
  Samples s(4);
  for (int i = 1; i <= 16; ++i) s.add(i, i % 2 == 0 ? std::nan("") : i);
  EXPECT_EQ(s.high(), 15);
  EXPECT_EQ(s.low(), 1);
  Samples lost(4);
  lost.add(1, std::nan(""));
  EXPECT_TRUE(std::isnan(lost.points(4).at(0).y));
  EXPECT_TRUE(std::isnan(lost.low()));
}

}  // namespace
}  // namespace nereus::report
