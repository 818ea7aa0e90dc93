#include "ops/optimizer.h"

#include <gtest/gtest.h>

#include "base/philox.h"
#include "ops/init.h"
#include "test/test_tensor.h"

namespace nereus::ops {
namespace {

// PyTorch's update, in double.
struct Reference {
  double p, m = 0, v = 0;
  void step(double g, const Adam& a, bool bf16_moments = false) {
    if (a.decoupled) {
      p *= 1 - a.lr * a.weight_decay;
    } else {
      g += a.weight_decay * p;
    }
    m = a.beta1 * m + (1 - a.beta1) * g;
    v = a.beta2 * v + (1 - a.beta2) * g * g;
    const auto t = static_cast<double>(a.step);
    p -= a.lr / (1 - std::pow(a.beta1, t)) * m /
         (std::sqrt(v) / std::sqrt(1 - std::pow(a.beta2, t)) + a.eps);
    if (!bf16_moments) return;
    m = static_cast<double>(static_cast<float>(bf16(static_cast<float>(m))));
    v = static_cast<double>(static_cast<float>(bf16(static_cast<float>(v))));
  }
};

TEST(Adam, AgreesWithTheFormulasOverSeveralSteps) {
  for (const Device device : test::devices()) {
    for (const bool decoupled : {true, false}) {
      constexpr int64_t kN = 40001;  // not a multiple of a task
      const auto param = test::Tensor(device, DType::f32, {kN}).fill_normal(1);
      const auto m = test::Tensor(device, DType::f32, {kN}).fill(0),
                 v = test::Tensor(device, DType::f32, {kN}).fill(0);
      const auto copy = test::Tensor(device, DType::bf16, {kN}).poison();
      const auto coefficient = test::Tensor(device, DType::f32, {1}).fill(0.5);
      auto ok = test::Tensor(device, DType::i32, {1}).fill(1);
      std::vector<Reference> want;
      for (const double p : param.values()) want.push_back({p});
      Stream s = test::stream(device);
      Adam a{.param = param,
             .m = m,
             .v = v,
             .copy = copy,
             .coefficient = coefficient,
             .step_ok = ok,
             .lr = 1e-2,
             .beta1 = 0.9,
             .beta2 = 0.95,
             .eps = 1e-8,
             .weight_decay = 0.1,
             .decoupled = decoupled};
      for (int64_t step = 1; step <= 4; ++step) {
        const auto grad =
            test::Tensor(device, DType::f32, {kN}).fill_normal(static_cast<uint64_t>(10 + step));
        a.grad = grad;
        a.step = step;
        adam(s, a);
        s.synchronize();
        const auto g = grad.values();
        for (size_t i = 0; i < want.size(); ++i) want[i].step(0.5 * g[i], a);
      }
      const auto pv = param.values(), mv = m.values(), vv = v.values(), cv = copy.values();
      for (size_t i = 0; i < want.size(); ++i) {
        ASSERT_NEAR(pv[i], want[i].p, 1e-6 * (1 + std::abs(want[i].p)));
        ASSERT_NEAR(mv[i], want[i].m, 1e-6 * (1 + std::abs(want[i].m)));
        ASSERT_NEAR(vv[i], want[i].v, 2e-6 * (1 + want[i].v));
        ASSERT_EQ(static_cast<float>(cv[i]), static_cast<float>(bf16(static_cast<float>(pv[i]))));
      }
      // A step that is not ok changes nothing.
      ok.fill(0);
      a.step = 5;
      adam(s, a);
      s.synchronize();
      EXPECT_EQ(param.values(), pv);
      EXPECT_EQ(m.values(), mv);
    }
  }
}

// What is stored is rounded, what the step computes with is not. A value that lies between two bf16
// may be rounded to the other one here: an ulp of a moment, and what it moves the parameter.
TEST(Adam, KeepsMomentsInBFloat16) {
  for (const Device device : test::devices()) {
    for (const int64_t n : {40000, 40001}) {
      const auto param = test::Tensor(device, DType::f32, {n}).fill_normal(1);
      const auto m = test::Tensor(device, DType::bf16, {n}).fill(0),
                 v = test::Tensor(device, DType::bf16, {n}).fill(0);
      const auto coefficient = test::Tensor(device, DType::f32, {1}).fill(0.5);
      const auto ok = test::Tensor(device, DType::i32, {1}).fill(1);
      std::vector<Reference> want;
      for (const double p : param.values()) want.push_back({p});
      Stream s = test::stream(device);
      Adam a{.param = param,
             .m = m,
             .v = v,
             .coefficient = coefficient,
             .step_ok = ok,
             .lr = 1e-2,
             .beta1 = 0.9,
             .beta2 = 0.95,
             .eps = 1e-8,
             .weight_decay = 0.1};
      for (int64_t step = 1; step <= 4; ++step) {
        const auto grad =
            test::Tensor(device, DType::f32, {n}).fill_normal(static_cast<uint64_t>(10 + step));
        a.grad = grad;
        a.step = step;
        adam(s, a);
        s.synchronize();
        const auto g = grad.values();
        for (size_t i = 0; i < want.size(); ++i) want[i].step(0.5 * g[i], a, true);
      }
      const auto pv = param.values(), mv = m.values(), vv = v.values();
      int64_t others = 0;
      for (size_t i = 0; i < want.size(); ++i) {
        others += mv[i] != want[i].m || vv[i] != want[i].v;
        ASSERT_NEAR(mv[i], want[i].m, std::abs(want[i].m) / 64 + 1e-6);
        ASSERT_NEAR(vv[i], want[i].v, want[i].v / 64 + 1e-9);
        ASSERT_NEAR(pv[i], want[i].p, 1e-3 * (1 + std::abs(want[i].p)));
      }
      EXPECT_LT(others, n / 100);
    }
  }
}

TEST(GradientNorm, IsTheRootOfTheSumOfSquaresAndClips) {
  for (const Device device : test::devices()) {
    Stream s = test::stream(device);
    for (const int64_t n : {1, 63, 100003}) {
      const auto x = test::Tensor(device, DType::f32, {n}).fill_normal(1, 0, 3);
      const auto squares = test::Tensor(device, DType::f64, {1}).fill(2);
      const auto norm = test::Tensor(device, DType::f32, {1}).poison(),
                 coefficient = test::Tensor(device, DType::f32, {1}).poison();
      const auto ok = test::Tensor(device, DType::i32, {1}).fill(1);
      sum_squares(s, {.out = squares, .x = x, .accumulate = true});
      clip_coefficient(s, {.norm = norm,
                           .coefficient = coefficient,
                           .step_ok = ok,
                           .sum_squares = squares,
                           .max_norm = 1.5f});
      s.synchronize();
      double want = 2;
      for (const double v : x.values()) want += v * v;
      EXPECT_NEAR(squares[0], want, 1e-12 * want);
      EXPECT_NEAR(norm[0], std::sqrt(want), 1e-7 * std::sqrt(want));
      EXPECT_NEAR(coefficient[0], std::min(1.0, 1.5 / (std::sqrt(want) + 1e-6)), 2e-7);
      EXPECT_EQ(ok[0], 1);
    }
    auto x = test::Tensor(device, DType::f32, {100}).fill(1);
    x.set_element(77, std::numeric_limits<double>::quiet_NaN());
    const auto squares = test::Tensor(device, DType::f64, {1}).poison();
    const auto norm = test::Tensor(device, DType::f32, {1}).poison(),
               coefficient = test::Tensor(device, DType::f32, {1}).poison();
    const auto ok = test::Tensor(device, DType::i32, {1}).fill(1);
    sum_squares(s, {.out = squares, .x = x});
    clip_coefficient(
        s, {.norm = norm, .coefficient = coefficient, .step_ok = ok, .sum_squares = squares});
    s.synchronize();
    EXPECT_EQ(ok[0], 0);
  }
}

struct Moments {
  double mean, std, most;
};
Moments moments(const std::vector<double>& x) {
  Moments m{0, 0, 0};
  for (const double v : x) {
    m.mean += v / static_cast<double>(x.size());
    m.most = std::max(m.most, std::abs(v));
  }
  for (const double v : x) m.std += (v - m.mean) * (v - m.mean) / static_cast<double>(x.size());
  m.std = std::sqrt(m.std);
  return m;
}

TEST(InitNormal, HasTheMomentsOfTheDistributions) {
  for (const Device device : test::devices()) {
    constexpr int64_t kN = 1 << 20;
    Stream s = test::stream(device);
    const auto x = test::Tensor(device, DType::f32, {kN}).poison();
    init_normal(s, {.out = x, .seed = 1, .stream = hash_name("a"), .mean = 0, .std = 1});
    s.synchronize();
    Moments m = moments(x.values());
    EXPECT_NEAR(m.mean, 0, 5 / std::sqrt(kN));
    EXPECT_NEAR(m.std, 1, 4 / std::sqrt(2.0 * kN));
    EXPECT_GT(m.most, 4.2);  // the largest of 2^20: 4.9 expected
    EXPECT_LT(m.most, 6.5);
    double inside = 0;
    for (const double v : x.values()) inside += std::abs(v) < 1;
    EXPECT_NEAR(inside / kN, 0.6826895, 4 * std::sqrt(0.217 / kN));

    // Cut at 3 sigma: the standard deviation is sqrt(1 - 6 phi(3) / (2 Phi(3) - 1)) = 0.98658
    // sigma.
    init_normal(s, {.out = x,
                    .seed = 1,
                    .stream = hash_name("b"),
                    .mean = 0,
                    .std = 0.0625f,
                    .low = -0.1875f,
                    .high = 0.1875f});
    s.synchronize();
    m = moments(x.values());
    EXPECT_LE(m.most, 0.1875);
    EXPECT_NEAR(m.std, 0.98658 * 0.0625, 0.0005 * 0.0625 * 4);
  }
}

TEST(InitNormal, AnElementDependsOnSeedNameAndIndexOnly) {
  for (const Device device : test::devices()) {
    Stream s = test::stream(device);
    const auto whole = test::Tensor(device, DType::f32, {40000}).poison(),
               part = test::Tensor(device, DType::f32, {1001}).poison();
    init_normal(s, {.out = whole, .seed = 3, .stream = hash_name("w"), .std = 0.02f});
    init_normal(s,
                {.out = part, .seed = 3, .stream = hash_name("w"), .first = 20007, .std = 0.02f});
    s.synchronize();
    const auto w = whole.values(), p = part.values();
    for (size_t i = 0; i < p.size(); ++i) ASSERT_EQ(p[i], w[20007 + i]);
    // Pinned: every later version and device must start from the same bits.
    EXPECT_EQ(w[0], 0x1.12bf96p-5);
    EXPECT_EQ(w[1], 0x1.8a7c82p-6);
    EXPECT_EQ(w[39999], 0x1.3db38ap-5);
    init_normal(s,
                {.out = part, .seed = 4, .stream = hash_name("w"), .first = 20007, .std = 0.02f});
    s.synchronize();
    EXPECT_NE(part[0], p[0]);
  }
}

}  // namespace
}  // namespace nereus::ops
