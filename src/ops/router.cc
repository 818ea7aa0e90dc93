#include "ops/router.h"

#include <algorithm>
#include <cmath>

#include "ops/contract.h"

namespace nereus::ops {

void check(const RouterForward& a) {
  const char* op = "router_forward";
  expect_float(op, "logits", a.logits);
  expect_rank(op, "logits", a.logits, 2);
  expect_rank(op, "ids", a.ids, 2);
  const int64_t T = a.logits.dim(0), E = a.logits.dim(1), K = a.ids.dim(1);
  expect(op, "ids", a.ids, DType::i32, {T, K});
  expect(op, "weights", a.weights, DType::f32, {T, K});
  expect(op, "scores", a.scores, DType::f32, {T, E});
  if (given(a.load)) expect(op, "load", a.load, DType::i64, {E});
  if (given(a.bias)) expect(op, "bias", a.bias, DType::f32, {E});
  const RoutingRule& r = a.rule;
  NEREUS_CHECK(
      kContract,
      r.groups >= 1 && r.limited_groups >= 1 && r.limited_groups <= r.groups && E % r.groups == 0,
      "router_forward: {} experts in {} groups of which {} may be chosen", E, r.groups,
      r.limited_groups);
  NEREUS_CHECK(kContract, K >= 1 && K <= E / r.groups * r.limited_groups,
               "router_forward: {} of {} experts chosen, {} of {} groups", K, E, r.limited_groups,
               r.groups);
}

void check(const RouterBackward& a) {
  const char* op = "router_backward";
  expect_float(op, "dlogits", a.dlogits);
  expect_rank(op, "dlogits", a.dlogits, 2);
  expect_rank(op, "ids", a.ids, 2);
  const int64_t T = a.dlogits.dim(0), E = a.dlogits.dim(1), K = a.ids.dim(1);
  expect(op, "ids", a.ids, DType::i32, {T, K});
  expect(op, "dweights", a.dweights, DType::f32, {T, K});
  expect(op, "scores", a.scores, DType::f32, {T, E});
}

void check(const BalanceUpdate& a) {
  expect_rank("balance_update", "bias", a.bias, 1);
  expect("balance_update", "bias", a.bias, DType::f32, a.bias.shape);
  expect("balance_update", "load", a.load, DType::i64, a.bias.shape);
  expect("balance_update", "step_ok", a.step_ok, DType::i32, {1});
}

namespace cpu {
namespace {

constexpr int64_t kTokens = 16;  // a task
constexpr float kTiny = 1e-20f;  // of the normaliser

template <class E>
void score_row(float* score, const E* logits, int64_t n, RoutingRule::Score function) {
  if (function == RoutingRule::Score::sigmoid) {
    for (int64_t e = 0; e < n; ++e)
      score[e] = 1.0f / (1.0f + std::exp(-static_cast<float>(logits[e])));
    return;
  }
  float most = static_cast<float>(logits[0]);
  for (int64_t e = 1; e < n; ++e) most = std::max(most, static_cast<float>(logits[e]));
  float sum = 0;
  for (int64_t e = 0; e < n; ++e) {
    score[e] = std::exp(static_cast<float>(logits[e]) - most);
    sum += score[e];
  }
  for (int64_t e = 0; e < n; ++e) score[e] /= sum;
}

// Excludes (-inf) the experts of groups that are not among the best.
void limit_groups(float* choice, int64_t experts, const RoutingRule& rule, float* group_score) {
  const int64_t width = experts / rule.groups;
  for (int64_t g = 0; g < rule.groups; ++g) {
    float first = -INFINITY, second = -INFINITY;
    for (int64_t e = g * width; e < (g + 1) * width; ++e) {
      if (choice[e] > first) {
        second = first;
        first = choice[e];
      } else if (choice[e] > second) {
        second = choice[e];
      }
    }
    group_score[g] = width > 1 ? first + second : first;
  }
  for (int64_t g = 0; g < rule.groups; ++g) {
    int better = 0;
    for (int64_t o = 0; o < rule.groups; ++o)
      better += group_score[o] > group_score[g] || (group_score[o] == group_score[g] && o < g);
    if (better >= rule.limited_groups) std::fill_n(choice + g * width, width, -INFINITY);
  }
}

// The largest first, ties to the smaller index. NaN is never chosen while there is anything else.
void choose(int32_t* ids, float* choice, int64_t experts, int64_t k) {
  for (int64_t i = 0; i < k; ++i) {
    int64_t best = -1;
    for (int64_t e = 0; e < experts; ++e) {
      const bool taken = std::find(ids, ids + i, static_cast<int32_t>(e)) != ids + i;
      if (!taken && (best < 0 || choice[e] > choice[best])) best = e;
    }
    ids[i] = static_cast<int32_t>(best);
  }
}

}  // namespace

void router_forward(Stream& stream, const RouterForward& a) {
  const int64_t T = a.logits.dim(0), E = a.logits.dim(1), K = a.ids.dim(1);
  const RoutingRule& rule = a.rule;
  const float* bias = given(a.bias) ? a.bias.as<float>() : nullptr;
  visit_float(a.logits.dtype, [&]<class Logit>() {
    stream.parallel_for((T + kTokens - 1) / kTokens, [&](int64_t task, Scratch scratch) {
      float* choice = reinterpret_cast<float*>(scratch.data());
      for (int64_t t = task * kTokens; t < std::min(T, (task + 1) * kTokens); ++t) {
        float* score = a.scores.as<float>() + t * a.scores.row_stride();
        int32_t* ids = a.ids.as<int32_t>() + t * a.ids.row_stride();
        float* weights = a.weights.as<float>() + t * a.weights.row_stride();
        score_row(score, a.logits.as<Logit>() + t * a.logits.row_stride(), E, rule.score);
        if (rule.forced) {
          const int64_t place = a.places.place(t);
          for (int64_t k = 0; k < K; ++k) ids[k] = forced_expert(rule.skew_percent, place, k, K, E);
        } else {
          for (int64_t e = 0; e < E; ++e)
            choice[e] = bias == nullptr ? score[e] : score[e] + bias[e];
          if (rule.groups > 1) limit_groups(choice, E, rule, choice + E);
          choose(ids, choice, E, K);
        }
        float sum = 0;
        for (int64_t k = 0; k < K; ++k) {
          weights[k] = score[ids[k]];
          sum += weights[k];
        }
        for (int64_t k = 0; k < K; ++k) {
          if (rule.normalize) weights[k] /= sum + kTiny;
          weights[k] *= rule.scale;
        }
      }
    });
  });
  if (!given(a.load)) return;
  for (int64_t t = 0; t < T; ++t)
    for (int64_t k = 0; k < K; ++k)
      ++a.load.as<int64_t>()[a.ids.as<int32_t>()[t * a.ids.row_stride() + k]];
}

// With p_k the score of choice k and S = sum p: normalised w_k = scale p_k / S, so that
// dp_k = scale / S (dw_k - sum_j dw_j p_j / S); without, dp_k = scale dw_k. Then through sigmoid,
// dz = dp p (1 - p), or softmax, dz_e = p_e (dp_e - sum dp p).
void router_backward(Stream& stream, const RouterBackward& a) {
  const int64_t T = a.dlogits.dim(0), E = a.dlogits.dim(1), K = a.ids.dim(1);
  const RoutingRule& rule = a.rule;
  visit_float(a.dlogits.dtype, [&]<class Logit>() {
    stream.parallel_for((T + kTokens - 1) / kTokens, [&](int64_t task, Scratch scratch) {
      float* dscore = reinterpret_cast<float*>(scratch.data());
      for (int64_t t = task * kTokens; t < std::min(T, (task + 1) * kTokens); ++t) {
        const float* score = a.scores.as<float>() + t * a.scores.row_stride();
        const float* dweights = a.dweights.as<float>() + t * a.dweights.row_stride();
        const int32_t* ids = a.ids.as<int32_t>() + t * a.ids.row_stride();
        Logit* dlogits = a.dlogits.as<Logit>() + t * a.dlogits.row_stride();
        std::fill_n(dscore, E, 0.0f);
        float sum = 0, dot = 0;
        for (int64_t k = 0; k < K; ++k) {
          sum += score[ids[k]];
          dot += dweights[k] * score[ids[k]];
        }
        sum += kTiny;
        for (int64_t k = 0; k < K; ++k)
          dscore[ids[k]] += rule.normalize ? rule.scale / sum * (dweights[k] - dot / sum)
                                           : rule.scale * dweights[k];
        float inner = 0;
        for (int64_t e = 0; e < E; ++e) inner += dscore[e] * score[e];
        for (int64_t e = 0; e < E; ++e) {
          const float slope = rule.score == RoutingRule::Score::sigmoid
                                  ? dscore[e] * (1.0f - score[e])
                                  : dscore[e] - inner;
          dlogits[e] = Logit(score[e] * slope);
        }
      }
    });
  });
}

void balance_update(Stream&, const BalanceUpdate& a) {
  if (a.step_ok.as<int32_t>()[0] == 0) return;
  const int64_t E = a.bias.dim(0);
  const int64_t* load = a.load.as<int64_t>();
  float* bias = a.bias.as<float>();
  float mean = 0;
  for (int64_t e = 0; e < E; ++e) mean += static_cast<float>(load[e]);
  mean /= static_cast<float>(E);
  const auto sign = [&](int64_t e) {
    const float difference = mean - static_cast<float>(load[e]);
    return static_cast<float>((difference > 0) - (difference < 0));
  };
  float mean_delta = 0;
  for (int64_t e = 0; e < E; ++e) mean_delta += a.coefficient * sign(e);
  mean_delta /= static_cast<float>(E);
  for (int64_t e = 0; e < E; ++e) bias[e] += a.coefficient * sign(e) - mean_delta;
}

}  // namespace cpu
}  // namespace nereus::ops
