#include "ops/swiglu.h"

#include <gtest/gtest.h>

#include "test/test_tensor.h"

namespace nereus::ops {
namespace {

struct Case {
  Device device;
  DType dtype;
  int64_t T, F;
  bool weighted;
};
void PrintTo(const Case& c, std::ostream* s) {
  *s << name_of(c.dtype) << " " << c.T << "x" << c.F << (c.weighted ? " weighted" : "");
}
std::vector<Case> cases() {
  std::vector<Case> out;
  for (const Device device : test::devices())
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const bool weighted : {false, true})
        for (const auto& [T, F] : {std::pair<int64_t, int64_t>{0, 8}, {1, 1}, {5, 37}, {20, 256}})
          out.push_back({device, dtype, T, F, weighted});
  return out;
}
class SwigluTest : public testing::TestWithParam<Case> {};

TEST_P(SwigluTest, ForwardAndBackwardAgreeWithTheFormulas) {
  const auto& [device, dtype, T, F, weighted] = GetParam();
  const double u = test::unit_roundoff(dtype);
  const auto gu = test::Tensor(device, dtype, {T, 2 * F}).fill_normal(1, 0, 3),
             dy = test::Tensor(device, dtype, {T, F}).fill_normal(2);
  const auto w = test::Tensor(device, DType::f32, {T}).fill_normal(3);
  const int64_t used = T > 1 ? T - 1 : T;  // with weights the last row is not a routed one
  auto rows = test::Tensor(device, DType::i32, {1}).fill(static_cast<double>(used));
  const auto y = test::Tensor(device, dtype, {T, F}).poison(),
             dgu = test::Tensor(device, dtype, {T, 2 * F}).poison();
  const auto dw = test::Tensor(device, DType::f32, {T}).poison();
  Stream s = test::stream(device);
  SwigluForward forward{.y = y, .gate_up = gu};
  SwigluBackward backward{.dgate_up = dgu, .dy = dy, .gate_up = gu};
  if (weighted) {
    forward.row_weight = backward.row_weight = w;
    forward.rows = backward.rows = rows;
    backward.drow_weight = dw;
  }
  swiglu_forward(s, forward);
  swiglu_backward(s, backward);
  s.synchronize();
  const auto g = gu.values(), d = dy.values(), ws = w.values(), ys = y.values(), dg = dgu.values(),
             dws = dw.values();
  for (int64_t t = 0; t < T; ++t) {
    const bool live = !weighted || t < used;
    double dot = 0, magnitude = 0;
    for (int64_t f = 0; f < F; ++f) {
      const double z = g[static_cast<size_t>(t * 2 * F + f)],
                   up = g[static_cast<size_t>(t * 2 * F + F + f)];
      const double sig = 1 / (1 + std::exp(-z)), weight = weighted ? ws[static_cast<size_t>(t)] : 1;
      const double gradient = d[static_cast<size_t>(t * F + f)];
      const double got = ys[static_cast<size_t>(t * F + f)];
      const double got_gate = dg[static_cast<size_t>(t * 2 * F + f)],
                   got_up = dg[static_cast<size_t>(t * 2 * F + F + f)];
      if (!live) {
        ASSERT_TRUE(std::isnan(got) && std::isnan(got_gate) && std::isnan(got_up));
        continue;
      }
      const double want = weight * z * sig * up;
      ASSERT_NEAR(got, want, (u + 1e-6) * std::abs(want) + 1e-12);
      const double want_up = weight * gradient * z * sig,
                   want_gate = weight * gradient * up * (sig + z * sig * (1 - sig));
      ASSERT_NEAR(got_up, want_up, (u + 1e-6) * std::abs(want_up) + 1e-12);
      ASSERT_NEAR(got_gate, want_gate,
                  u * std::abs(want_gate) +
                      2e-6 * std::abs(weight * gradient * up) * (1 + std::abs(z)) + 1e-12);
      dot += gradient * z * sig * up;
      magnitude += std::abs(gradient * z * sig * up);
    }
    if (weighted && live) {
      ASSERT_NEAR(dws[static_cast<size_t>(t)], dot, 2e-6 * magnitude + 1e-12);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(EveryDeviceTypeAndSize, SwigluTest, testing::ValuesIn(cases()));

}  // namespace
}  // namespace nereus::ops
