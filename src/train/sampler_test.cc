#include "train/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "base/error.h"

namespace nereus {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

std::map<int32_t, double> shares(const std::vector<float>& logits, Sampling how, int draws) {
  std::map<int32_t, double> out;
  for (int i = 0; i < draws; ++i) out[choose_token(logits, how, i)] += 1.0 / draws;
  return out;
}

TEST(Sampler, DrawsWithTheProbabilitiesOfTheSoftmax) {
  const std::vector<float> logits = {1.0f, -kInf, 2.5f, 0.0f};
  constexpr int kDraws = 40'000;
  for (const double temperature : {0.5, 1.0, 3.0}) {
    double sum = 0;
    for (const float l : logits) sum += std::exp(static_cast<double>(l) / temperature);
    const auto got = shares(logits, {.temperature = temperature, .top_p = 1, .seed = 7}, kDraws);
    EXPECT_FALSE(got.contains(1));
    for (const int32_t i : {0, 2, 3}) {
      const double p = std::exp(logits[static_cast<size_t>(i)] / temperature) / sum;
      EXPECT_NEAR(got.at(i), p, 5 * std::sqrt(p * (1 - p) / kDraws)) << temperature;
    }
  }
}

// Probabilities 0.4, 0.3, 0.2, 0.1.
TEST(Sampler, KeepsTheFewestTokensThatReachTopP) {
  std::vector<float> logits;
  for (const double p : {0.2, 0.4, 0.1, 0.3}) logits.push_back(static_cast<float>(std::log(p)));
  constexpr int kDraws = 20'000;
  const auto kept = [&](double top_p) {
    return shares(logits, {.temperature = 1, .top_p = top_p, .seed = 1}, kDraws);
  };
  EXPECT_EQ(kept(0.39).size(), 1u);
  const auto two = kept(0.6);
  ASSERT_EQ(two.size(), 2u);
  EXPECT_NEAR(two.at(1), 0.4 / 0.7, 0.02);
  EXPECT_NEAR(two.at(3), 0.3 / 0.7, 0.02);
  EXPECT_EQ(kept(0.8).size(), 3u);
  EXPECT_EQ(kept(1).size(), 4u);
}

TEST(Sampler, GreedyTakesTheFirstOfEqualLogits) {
  const Sampling greedy{.temperature = 0};
  EXPECT_EQ(choose_token(std::vector<float>{0, 3, 3, -1}, greedy, 0), 1);
  // Both of two equals are as probable.
  EXPECT_NEAR(shares({3, 3}, {.temperature = 1, .top_p = 1, .seed = 2}, 20'000).at(0), 0.5, 0.02);
  EXPECT_EQ(shares({3, 3}, {.temperature = 1, .top_p = 0.4, .seed = 2}, 100).size(), 1u);
}

TEST(Sampler, RefusesLogitsThatAreNoNumbers) {
  EXPECT_THAT(
      [] {
        choose_token(std::vector<float>{0, NAN}, {.temperature = 0}, 12);
      },
      testing::ThrowsMessage<Error>(testing::HasSubstr("token 12 of the text: logit 1 is NaN")));
  EXPECT_THAT(
      [] {
        choose_token(std::vector<float>{-kInf, -kInf}, {}, 3);
      },
      testing::ThrowsMessage<Error>(
          testing::HasSubstr("token 3 of the text: the largest logit is -inf")));
}

}  // namespace
}  // namespace nereus
