#include "ops/router.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "test/test_tensor.h"

namespace nereus::ops {
namespace {

using Score = RoutingRule::Score;

// Scores, choice and weights of one token in double, by the header's words.
struct Judge {
  std::vector<double> score, weight;
  std::vector<int64_t> ids;
};

std::vector<double> scores(const std::vector<double>& logits, Score function) {
  std::vector<double> out(logits.size());
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (size_t e = 0; e < out.size(); ++e)
    sum += out[e] =
        function == Score::sigmoid ? 1 / (1 + std::exp(-logits[e])) : std::exp(logits[e] - top);
  if (function == Score::softmax)
    for (double& x : out) x /= sum;
  return out;
}

std::vector<double> weights(const std::vector<double>& score, const std::vector<int64_t>& ids,
                            const RoutingRule& rule) {
  std::vector<double> out;
  double sum = 0;
  for (const int64_t e : ids) sum += score[static_cast<size_t>(e)];
  for (const int64_t e : ids)
    out.push_back(static_cast<double>(rule.scale) * score[static_cast<size_t>(e)] /
                  (rule.normalize ? sum + 1e-20 : 1));
  return out;
}

Judge judge(const std::vector<double>& logits, const std::vector<double>& bias, int64_t t,
            int64_t K, const RoutingRule& rule) {
  const auto E = static_cast<int64_t>(logits.size());
  Judge j;
  j.score = scores(logits, rule.score);
  if (rule.forced) {
    for (int64_t k = 0; k < K; ++k)
      j.ids.push_back(t % 100 < rule.skew_percent ? k % E : (t * K + k) % E);
  } else {
    std::vector<double> choice = j.score;
    for (size_t e = 0; e < bias.size(); ++e) choice[e] += bias[e];
    const int64_t width = E / rule.groups;
    std::vector<std::pair<double, int64_t>> groups;
    for (int64_t g = 0; g < rule.groups; ++g) {
      std::vector<double> members(choice.begin() + g * width, choice.begin() + (g + 1) * width);
      std::sort(members.rbegin(), members.rend());
      groups.emplace_back(-(members[0] + (width > 1 ? members[1] : 0)), g);
    }
    std::sort(groups.begin(), groups.end());
    std::vector<std::pair<double, int64_t>> candidates;
    for (int g = 0; g < rule.limited_groups; ++g)
      for (int64_t e = groups[static_cast<size_t>(g)].second * width;
           e < (groups[static_cast<size_t>(g)].second + 1) * width; ++e)
        candidates.emplace_back(-choice[static_cast<size_t>(e)], e);
    std::sort(candidates.begin(), candidates.end());
    for (int64_t k = 0; k < K; ++k) j.ids.push_back(candidates[static_cast<size_t>(k)].second);
  }
  j.weight = weights(j.score, j.ids, rule);
  return j;
}

struct Case {
  const char* name;
  int64_t E, K;
  RoutingRule rule;
  bool bias;
};
class RouterTest : public testing::TestWithParam<Case> {};

TEST_P(RouterTest, ChoosesAndWeighsByTheRuleAndItsGradientIsTheDerivative) {
  const Case& c = GetParam();
  constexpr int64_t T = 41;
  for (const Device device : test::devices()) {
    const auto logits = test::Tensor(device, DType::f32, {T, c.E}).fill_normal(1, 0, 2);
    const auto bias = test::Tensor(device, DType::f32, {c.E}).fill_normal(2, 0, 0.2);
    const auto w = test::Tensor(device, DType::f32, {T, c.K}).poison(),
               sc = test::Tensor(device, DType::f32, {T, c.E}).poison();
    const auto ids = test::Tensor(device, DType::i32, {T, c.K}).poison();
    const auto load = test::Tensor(device, DType::i64, {c.E}).fill(5);
    Stream s = test::stream(device);
    router_forward(s, {.weights = w,
                       .ids = ids,
                       .scores = sc,
                       .load = load,
                       .logits = logits,
                       .bias = c.bias ? ConstTensorView(bias) : ConstTensorView(),
                       .rule = c.rule});
    const auto dw = test::Tensor(device, DType::f32, {T, c.K}).fill_normal(3);
    const auto dlogits = test::Tensor(device, DType::f32, {T, c.E}).poison();
    router_backward(s,
                    {.dlogits = dlogits, .dweights = dw, .ids = ids, .scores = sc, .rule = c.rule});
    s.synchronize();
    const auto lv = logits.values(), bv = bias.values(), wv = w.values(), iv = ids.values(),
               dwv = dw.values(), dlv = dlogits.values();
    std::vector<double> count(static_cast<size_t>(c.E), 5);
    for (int64_t t = 0; t < T; ++t) {
      std::vector<double> row(lv.begin() + t * c.E, lv.begin() + (t + 1) * c.E);
      const Judge j = judge(row, c.bias ? bv : std::vector<double>(), t, c.K, c.rule);
      const auto loss = [&](const std::vector<double>& logit_row) {
        const std::vector<double> v = weights(scores(logit_row, c.rule.score), j.ids, c.rule);
        double sum = 0;
        for (int64_t k = 0; k < c.K; ++k)
          sum += v[static_cast<size_t>(k)] * dwv[static_cast<size_t>(t * c.K + k)];
        return sum;
      };
      for (int64_t k = 0; k < c.K; ++k) {
        ASSERT_EQ(iv[static_cast<size_t>(t * c.K + k)],
                  static_cast<double>(j.ids[static_cast<size_t>(k)]))
            << "token " << t;
        ASSERT_NEAR(wv[static_cast<size_t>(t * c.K + k)], j.weight[static_cast<size_t>(k)],
                    2e-6 * std::abs(j.weight[static_cast<size_t>(k)]));
        ++count[static_cast<size_t>(j.ids[static_cast<size_t>(k)])];
      }
      for (size_t e = 0; e < static_cast<size_t>(c.E); ++e) {
        std::vector<double> up = row, down = row;
        up[e] += 1e-5;
        down[e] -= 1e-5;
        ASSERT_NEAR(dlv[static_cast<size_t>(t * c.E) + e], (loss(up) - loss(down)) / 2e-5, 1e-5);
      }
    }
    EXPECT_EQ(load.values(), count);
  }
}
INSTANTIATE_TEST_SUITE_P(
    EveryRule, RouterTest,
    testing::Values(
        Case{"deepseek_v3",
             16,
             4,
             {.score = Score::sigmoid,
              .normalize = true,
              .scale = 2.5f,
              .groups = 4,
              .limited_groups = 2},
             true},
        Case{"deepseek_v3_whole",
             256,
             8,
             {.score = Score::sigmoid,
              .normalize = true,
              .scale = 2.5f,
              .groups = 8,
              .limited_groups = 4},
             true},
        Case{"softmax", 8, 3, {.score = Score::softmax}, false},
        Case{"many_chosen", 150, 40, {.score = Score::softmax, .normalize = true}, false},
        Case{"softmax_normalised",
             8,
             3,
             {.score = Score::softmax, .normalize = true, .scale = 16},
             true},
        Case{"all_chosen", 4, 4, {.score = Score::sigmoid}, false},
        Case{
            "one_a_group", 4, 2, {.score = Score::sigmoid, .groups = 4, .limited_groups = 2}, true},
        Case{"forced", 8, 3, {.score = Score::sigmoid, .normalize = true, .forced = true}, true},
        Case{"forced_skew",
             8,
             3,
             {.score = Score::sigmoid, .normalize = true, .forced = true, .skew_percent = 4},
             true}),
    [](const auto& each) { return std::string(each.param.name); });

// Two runs of two rows, as context parallelism has them, from the third token on.
TEST(Router, ForcedRoutingFollowsATokensPlaceInTheGlobalBatch) {
  constexpr int64_t E = 7, K = 2, T = 9;
  const TokenPlaces places{
      .first = 2, .first_row = 5, .rows = 2, .sequence = 12, .run = 3, .start = {3, 6}};
  const std::vector<int64_t> expected{65, 75, 76, 77, 66, 67, 68, 78, 79};
  const TokenPlaces plain;
  for (int64_t t = 0; t < T; ++t) {
    EXPECT_EQ(places.place(t), expected[static_cast<size_t>(t)]);
    EXPECT_EQ(plain.place(t), t);
  }
  for (const int skew : {0, 70}) {
    for (const Device device : test::devices()) {
      const auto logits = test::Tensor(device, DType::f32, {T, E}).fill_normal(1);
      const auto w = test::Tensor(device, DType::f32, {T, K}).poison(),
                 sc = test::Tensor(device, DType::f32, {T, E}).poison();
      const auto ids = test::Tensor(device, DType::i32, {T, K}).poison();
      Stream s = test::stream(device);
      router_forward(s, {.weights = w,
                         .ids = ids,
                         .scores = sc,
                         .logits = logits,
                         .rule = {.forced = true, .skew_percent = skew},
                         .places = places});
      s.synchronize();
      for (int64_t t = 0; t < T; ++t)
        for (int64_t k = 0; k < K; ++k) {
          const int64_t place = expected[static_cast<size_t>(t)];
          EXPECT_EQ(ids[t * K + k], static_cast<double>(place < skew ? k : (place * K + k) % E));
        }
    }
  }
}

TEST(Router, TiesGoToTheSmallerExpert) {
  for (const Device device : test::devices()) {
    for (const int64_t E : {6, 100}) {  // equal ones far apart, too
      const auto logits = test::Tensor(device, DType::f32, {1, E}).fill(0.5);
      const auto w = test::Tensor(device, DType::f32, {1, 3}).poison(),
                 sc = test::Tensor(device, DType::f32, {1, E}).poison();
      const auto ids = test::Tensor(device, DType::i32, {1, 3}).poison();
      Stream s = test::stream(device);
      router_forward(s, {.weights = w, .ids = ids, .scores = sc, .logits = logits});
      s.synchronize();
      EXPECT_EQ(ids.values(), (std::vector<double>{0, 1, 2}));
    }
  }
}

// Expert 1 can only be chosen when no other is left, and no expert twice.
TEST(Router, ChoosesEachExpertOnceEvenWithoutScores) {
  for (const Device device : test::devices()) {
    const auto logits = test::Tensor(device, DType::f32, {1, 4}).fill(0.5);
    auto bias = test::Tensor(device, DType::f32, {4}).fill(0);
    bias.set_element(0, -std::numeric_limits<double>::infinity());
    bias.set_element(1, -std::numeric_limits<double>::infinity());
    const auto w = test::Tensor(device, DType::f32, {1, 4}).poison(),
               sc = test::Tensor(device, DType::f32, {1, 4}).poison();
    const auto ids = test::Tensor(device, DType::i32, {1, 4}).poison();
    Stream s = test::stream(device);
    router_forward(s, {.weights = w, .ids = ids, .scores = sc, .logits = logits, .bias = bias});
    s.synchronize();
    EXPECT_EQ(ids.values(), (std::vector<double>{2, 3, 0, 1}));
  }
}

// A view's rows, in a wider tensor, give what their copy gives; bf16 logits what they are in f32.
TEST(Router, RowsMayBeStridedAndLogitsBf16) {
  constexpr int64_t T = 9, E = 40, K = 5;
  const RoutingRule rule{.normalize = true, .scale = 2};
  for (const Device device : test::devices()) {
    const auto wide = test::Tensor(device, DType::bf16, {T, E + 3}).fill_normal(1);
    const auto wide_values = wide.values();
    std::vector<double> narrow;
    for (int64_t t = 0; t < T; ++t)
      for (int64_t e = 0; e < E; ++e)
        narrow.push_back(wide_values[static_cast<size_t>(t * (E + 3) + 2 + e)]);
    auto logits = test::Tensor(device, DType::f32, {T, E});
    logits.set(narrow);
    const auto w = test::Tensor(device, DType::f32, {T, K}),
               sc = test::Tensor(device, DType::f32, {T, E});
    const auto ids = test::Tensor(device, DType::i32, {T, K});
    const auto w2 = test::Tensor(device, DType::f32, {T, K + 2}).poison(),
               sc2 = test::Tensor(device, DType::f32, {T, E + 1}).poison();
    const auto ids2 = test::Tensor(device, DType::i32, {T, K + 1}).poison();
    const auto load = test::Tensor(device, DType::i64, {E}).fill(0),
               load2 = test::Tensor(device, DType::i64, {E}).fill(0);
    Stream s = test::stream(device);
    router_forward(
        s, {.weights = w, .ids = ids, .scores = sc, .load = load, .logits = logits, .rule = rule});
    router_forward(s, {.weights = w2.view().columns(1, K + 1),
                       .ids = ids2.view().columns(1, K + 1),
                       .scores = sc2.view().columns(0, E),
                       .load = load2,
                       .logits = wide.view().columns(2, E + 2),
                       .rule = rule});
    const auto dlogits = test::Tensor(device, DType::f32, {T, E}).poison();
    const auto dlogits2 = test::Tensor(device, DType::bf16, {T, E + 3}).poison();
    router_backward(s, {.dlogits = dlogits, .dweights = w, .ids = ids, .scores = sc, .rule = rule});
    router_backward(s, {.dlogits = dlogits2.view().columns(2, E + 2),
                        .dweights = w2.view().columns(1, K + 1),
                        .ids = ids2.view().columns(1, K + 1),
                        .scores = sc2.view().columns(0, E),
                        .rule = rule});
    s.synchronize();
    for (int64_t t = 0; t < T; ++t) {
      for (int64_t k = 0; k < K; ++k) {
        ASSERT_EQ(ids2[t * (K + 1) + 1 + k], ids[t * K + k]);
        ASSERT_EQ(w2[t * (K + 2) + 1 + k], w[t * K + k]);
      }
      for (int64_t e = 0; e < E; ++e) {
        ASSERT_EQ(sc2[t * (E + 1) + e], sc[t * E + e]);
        const double want = dlogits[t * E + e];
        ASSERT_NEAR(dlogits2[t * (E + 3) + 2 + e], want,
                    test::unit_roundoff(DType::bf16) * std::abs(want));
      }
      ASSERT_TRUE(ids2.poisoned(t * (K + 1)) && w2.poisoned(t * (K + 2)) &&
                  w2.poisoned(t * (K + 2) + K + 1) && sc2.poisoned(t * (E + 1) + E) &&
                  dlogits2.poisoned(t * (E + 3) + 1) && dlogits2.poisoned(t * (E + 3) + E + 2));
    }
    EXPECT_EQ(load2.values(), load.values());
  }
}

TEST(BalanceUpdate, MovesTheBiasAgainstTheLoadWithoutMovingItsMean) {
  for (const Device device : test::devices()) {
    auto bias = test::Tensor(device, DType::f32, {4}), load = test::Tensor(device, DType::i64, {4});
    bias.set({0.1, 0, 0, -0.1});
    load.set({10, 0, 0, 2});  // mean 3: signs -1, 1, 1, 1; their mean 0.5
    Stream s = test::stream(device);
    auto ok = test::Tensor(device, DType::i32, {1}).fill(1);
    balance_update(s, {.bias = bias, .load = load, .step_ok = ok, .coefficient = 1e-3f});
    s.synchronize();
    const std::vector<double> want = {0.1 - 1.5e-3, 0.5e-3, 0.5e-3, -0.1 + 0.5e-3};
    for (int64_t e = 0; e < 4; ++e) EXPECT_NEAR(bias[e], want[static_cast<size_t>(e)], 1e-8);
    const std::vector<double> moved = bias.values();
    ok.fill(0);
    balance_update(s, {.bias = bias, .load = load, .step_ok = ok, .coefficient = 1e-3f});
    s.synchronize();
    EXPECT_EQ(bias.values(), moved) << "a skipped step";
  }
}

}  // namespace
}  // namespace nereus::ops
