#include "model/moe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "model/layer_test.h"

namespace nereus {
namespace {

using test::normal;
using test::poisoned;
using test::Tensor;
using test::Values;

// Odd sizes, none of them another's.
constexpr int64_t kTokens = 11, kDim = 10, kWidth = 7;
constexpr size_t kT = kTokens, kD = kDim, kF = kWidth;

struct Case {
  const char* what;
  MoeArgs moe;
  bool huggingface = false;
  int64_t groups = 1, limited_groups = 1;
  bool biased = true;
  DType dtype = DType::f32;
};
void PrintTo(const Case& c, std::ostream* s) { *s << c.what; }

std::vector<Case> cases() {
  constexpr auto kSigmoid = ScoreFunction::sigmoid, kSoftmax = ScoreFunction::softmax;
  return {
      {"sigmoid, normalised", {6, 1, 3, kSigmoid, true, 2.5, false}},
      {"softmax", {5, 2, 2, kSoftmax, false, 1.0, false}},
      {"sigmoid, scores first", {6, 1, 3, kSigmoid, true, 2.5, true}},
      {"softmax, scores first, nothing shared", {5, 0, 2, kSoftmax, false, 1.5, true}},
      {"one expert a token", {7, 1, 1, kSigmoid, false, 1.0, true}},
      {"all experts", {3, 0, 3, kSoftmax, true, 1.0, false}},
      {"groups", {8, 1, 3, kSigmoid, true, 2.5, false}, true, 4, 2},
      {"groups, scores first", {9, 2, 4, kSigmoid, false, 1.0, true}, true, 3, 2},
      {"one expert without a token", {6, 1, 2, kSigmoid, true, 1.0, false}, false, 1, 1, true},
      {"no bias", {6, 1, 3, kSigmoid, true, 1.0, false}, false, 1, 1, false},
      {"bf16", {6, 1, 3, kSigmoid, true, 2.5, false}, false, 1, 1, true, DType::bf16},
      {"bf16, scores first", {6, 2, 2, kSoftmax, false, 1.0, true}, false, 1, 1, true, DType::bf16},
      {"bf16, groups", {8, 1, 3, kSigmoid, true, 2.5, false}, true, 4, 2, true, DType::bf16},
  };
}

// The formulas of the header in double, with the choice of experts made once.
struct Judge {
  const Case& c;
  Values x, dy, gate, up, down, shared_up, shared_down, bias;
  std::vector<std::vector<size_t>> ids;

  size_t experts() const { return static_cast<size_t>(c.moe.num_experts); }

  Values scores(size_t t) const {
    Values s = test::product(Values(x.begin() + static_cast<ptrdiff_t>(t * kD),
                                    x.begin() + static_cast<ptrdiff_t>((t + 1) * kD)),
                             gate, kD);
    double sum = 0;
    for (double& e : s) {
      e = c.moe.score_func == ScoreFunction::sigmoid ? 1 / (1 + std::exp(-e)) : std::exp(e);
      sum += e;
    }
    if (c.moe.score_func == ScoreFunction::softmax)
      for (double& e : s) e /= sum;
    return s;
  }

  // The K best of what may be chosen, best first.
  std::vector<size_t> choose(size_t t) const {
    Values choice = scores(t);
    for (size_t e = 0; e < experts(); ++e) choice[e] += bias[e];
    const auto groups = static_cast<size_t>(c.groups), width = experts() / groups;
    Values best(groups);  // of each group: its two best together
    for (size_t g = 0; g < groups; ++g) {
      Values of(choice.begin() + static_cast<ptrdiff_t>(g * width),
                choice.begin() + static_cast<ptrdiff_t>((g + 1) * width));
      std::sort(of.rbegin(), of.rend());
      best[g] = of[0] + (width > 1 ? of[1] : 0);
    }
    std::vector<size_t> order(groups);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return best[a] > best[b]; });
    std::vector<size_t> out;
    for (int64_t g = 0; g < c.limited_groups; ++g)
      for (size_t e = 0; e < width; ++e) out.push_back(order[static_cast<size_t>(g)] * width + e);
    std::sort(out.begin(), out.end(), [&](size_t a, size_t b) { return choice[a] > choice[b]; });
    out.resize(static_cast<size_t>(c.moe.top_k));
    return out;
  }

  Values weights(size_t t) const {
    const Values s = scores(t);
    Values w;
    for (const size_t e : ids[t]) w.push_back(s[e]);
    const double sum = std::accumulate(w.begin(), w.end(), 0.0);
    for (double& k : w) k *= c.moe.route_scale / (c.moe.route_norm ? sum : 1);
    return w;
  }

  // (silu(v W1^T) * (v W3^T)) W2^T of one token
  static Values feed_forward(const Values& v, const double* up, const double* down, size_t width) {
    const Values both = test::product(v, Values(up, up + 2 * width * kD), kD);
    Values act;
    for (size_t f = 0; f < width; ++f)
      act.push_back(both[f] / (1 + std::exp(-both[f])) * both[width + f]);
    return test::product(act, Values(down, down + kD * width), width);
  }

  Values y() const {
    Values out(kT * kD);
    for (size_t t = 0; t < kT; ++t) {
      const Values token(x.begin() + static_cast<ptrdiff_t>(t * kD),
                         x.begin() + static_cast<ptrdiff_t>((t + 1) * kD));
      const Values w = weights(t);
      for (size_t k = 0; k < ids[t].size(); ++k) {
        const size_t e = ids[t][k];
        Values input = token;
        if (c.moe.score_before_experts)
          for (double& v : input) v *= w[k];
        const Values rows = feed_forward(input, &up[e * 2 * kF * kD], &down[e * kD * kF], kF);
        for (size_t d = 0; d < kD; ++d)
          out[t * kD + d] += rows[d] * (c.moe.score_before_experts ? 1 : w[k]);
      }
      if (c.moe.num_shared_experts == 0) continue;
      const Values rows = feed_forward(token, shared_up.data(), shared_down.data(),
                                       kF * static_cast<size_t>(c.moe.num_shared_experts));
      for (size_t d = 0; d < kD; ++d) out[t * kD + d] += rows[d];
    }
    return out;
  }
};

class MoeTest : public testing::TestWithParam<Case> {};

TEST_P(MoeTest, OutputAndGradientsAreThoseOfTheFormulas) {
  const Case& c = GetParam();
  ModelArgs args;
  args.dim = kDim;
  args.moe_inter_dim = kWidth;
  args.moe = c.moe;
  args.numerics =
      numerics_of(c.huggingface ? NumericsFamily::huggingface : NumericsFamily::torchtitan);
  args.n_expert_groups = c.groups;
  args.n_limited_groups = c.limited_groups;
  const int64_t E = c.moe.num_experts, shared_width = kWidth * c.moe.num_shared_experts;
  const bool shared = shared_width > 0;
  const DType gate_type = c.huggingface ? DType::f32 : c.dtype;
  const Tensor gate = normal(1, {E, kDim}, 0.6, gate_type),
               up = normal(2, {E, 2 * kWidth, kDim}, 0.4, c.dtype),
               down = normal(3, {E, kDim, kWidth}, 0.4, c.dtype),
               shared_up = normal(4, {2 * shared_width, kDim}, 0.4, c.dtype),
               shared_down = normal(5, {kDim, shared_width}, 0.4, c.dtype),
               x = normal(6, {kTokens, kDim}, 1, c.dtype),
               dy = normal(7, {kTokens, kDim}, 1, c.dtype);
  Tensor bias = normal(8, {E}, 0.1);
  if (std::string(c.what) == "one expert without a token") bias.set_element(2, -5);
  if (!c.biased) bias.fill(0);

  Judge judge{.c = c,
              .x = x.values(),
              .dy = dy.values(),
              .gate = gate.values(),
              .up = up.values(),
              .down = down.values(),
              .shared_up = shared_up.values(),
              .shared_down = shared_down.values(),
              .bias = bias.values(),
              .ids = {}};
  std::vector<double> want_load(static_cast<size_t>(E));
  for (size_t t = 0; t < kT; ++t) {
    judge.ids.push_back(judge.choose(t));
    for (const size_t e : judge.ids.back()) ++want_load[e];
  }
  const Values want_y = judge.y();
  const auto value = [&] { return test::dot(judge.dy, judge.y()); };
  const std::vector<Values> want = {
      test::derivatives(judge.x, value),         test::derivatives(judge.gate, value),
      test::derivatives(judge.up, value),        test::derivatives(judge.down, value),
      test::derivatives(judge.shared_up, value), test::derivatives(judge.shared_down, value)};

  const Moe::Weights w{gate, up, down, {shared_up, shared_down}};
  const Tensor tokens = Tensor(Device::cpu(), DType::i32, {kTokens}).fill(0);
  const Microbatch mb{.ids = tokens, .labels = tokens, .positions = tokens, .first_key = tokens};
  test::LayerMemory memory;
  IdentityRegion region;
  LocalDispatcher dispatcher(E);
  // Sums of some tens of products; bf16 rounds every tensor on the way.
  const double tolerance = c.dtype == DType::f32 ? 3e-6 : 0.02;
  for (const bool at_once : {false, true}) {
    for (const Recompute& recompute :
         {Recompute::none(), Recompute{.swiglu = true}, Recompute{.dispatch = true}}) {
      SCOPED_TRACE(testing::Message() << "at once " << at_once << ", swiglu again "
                                      << recompute.swiglu << ", dispatch " << recompute.dispatch);
      memory.reset();
      const Moe moe(args, dispatcher, region, region, nullptr, recompute, 0);
      const Tensor load = Tensor(Device::cpu(), DType::i64, {E}).fill(0);
      const Tensor y = poisoned(x.shape(), c.dtype), dx = poisoned(x.shape(), c.dtype);
      const Tensor dgate = poisoned(gate.shape()), dup = poisoned(up.shape()),
                   ddown = poisoned(down.shape()), dshared_up = poisoned(shared_up.shape()),
                   dshared_down = poisoned(shared_down.shape());
      const Moe::Grads grads{dgate, dup, ddown, {dshared_up, dshared_down}};
      Moe::Saved saved;
      Moe::Pending pending;
      Context ctx = memory.context();
      moe.route(ctx, w,
                {.bias = c.biased ? ConstTensorView(bias) : ConstTensorView(), .load = load}, mb, x,
                saved.routing);
      for (size_t t = 0; t < kT; ++t)
        for (size_t k = 0; k < judge.ids[t].size(); ++k)
          ASSERT_EQ(saved.routing.ids[static_cast<int64_t>(t)].as<int32_t>()[k], judge.ids[t][k])
              << "token " << t;
      EXPECT_EQ(load.values(), want_load);
      moe.forward(ctx, w, x, y, saved);
      if (at_once) {
        moe.backward(ctx, w, dy, dx, saved, grads);
      } else {
        moe.backward_input(ctx, w, dy, dx, saved, pending);
        memory.release_input();
        moe.backward_weight(ctx, saved, pending, grads);
      }
      EXPECT_LT(test::normwise_error(y.values(), want_y), tolerance);
      const Tensor* got[] = {&dx, &dgate, &dup, &ddown, &dshared_up, &dshared_down};
      for (size_t i = 0; i < (shared ? 6 : 4); ++i)
        EXPECT_LT(test::normwise_error(got[i]->values(), want[i]), 2 * tolerance) << i;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(EveryRule, MoeTest, testing::ValuesIn(cases()));

}  // namespace
}  // namespace nereus
