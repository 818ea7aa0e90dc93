#include "observe/expert_table.h"

#include <gtest/gtest.h>

#include <cmath>

namespace nereus {
namespace {

// Four experts, mean 10: by hand.
TEST(LayerFigures, AreThoseOfTheDefinitions) {
  const LayerFigures even = layer_figures(std::vector<int64_t>{10, 10, 10, 10});
  EXPECT_DOUBLE_EQ(even.max_over_mean, 1);
  EXPECT_DOUBLE_EQ(even.entropy, 1);
  EXPECT_EQ(even.dead, 0);

  const LayerFigures one = layer_figures(std::vector<int64_t>{0, 40, 0, 0});
  EXPECT_DOUBLE_EQ(one.max_over_mean, 4);
  EXPECT_DOUBLE_EQ(one.entropy, 0);
  EXPECT_EQ(one.dead, 3);

  const LayerFigures some = layer_figures(std::vector<int64_t>{20, 5, 0, 15});
  EXPECT_DOUBLE_EQ(some.max_over_mean, 2);
  EXPECT_DOUBLE_EQ(some.p5, 0);
  EXPECT_DOUBLE_EQ(some.p50, 0.5);
  EXPECT_DOUBLE_EQ(some.p95, 2);
  EXPECT_NEAR(
      some.entropy,
      -(0.5 * std::log(0.5) + 0.125 * std::log(0.125) + 0.375 * std::log(0.375)) / std::log(4.0),
      1e-15);
  EXPECT_EQ(some.dead, 1);
}

TEST(LayerFigures, AreZeroWhereNothingWasRouted) {
  const LayerFigures none = layer_figures(std::vector<int64_t>{0, 0});
  EXPECT_EQ(none.max_over_mean, 0);
  EXPECT_EQ(none.entropy, 0);
  EXPECT_EQ(none.dead, 2);
}

TEST(ExpertFigures, AreOfAllLayers) {
  const ExpertFigures f = expert_figures({.experts = 2,
                                          .layers = {1, 2},
                                          .counts = {5, 5, 9, 0},
                                          .bias = {0.5f, -0.5f, -2, 1},
                                          .tokens_a_layer = 10});
  EXPECT_EQ(f.layers.size(), 2u);
  EXPECT_DOUBLE_EQ(f.p50, 1);
  EXPECT_DOUBLE_EQ(f.p95, 2);
  EXPECT_DOUBLE_EQ(f.lowest_entropy, 0);
  EXPECT_EQ(f.dead, 1);
  EXPECT_EQ(f.dropped, 1);
  EXPECT_EQ(f.bias_min, -2);
  EXPECT_EQ(f.bias_max, 1);
}

}  // namespace
}  // namespace nereus
