#include "ops/mla.h"

#include <gtest/gtest.h>

#include "test/test_tensor.h"

namespace nereus::ops {
namespace {

TEST(MlaAssemble, RotatesByTheFormulaAndItsBackwardIsTheTranspose) {
  for (const Device device : test::devices()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      constexpr int64_t T = 5, H = 3, N = 6, R = 4, P = 7;
      const double u = test::unit_roundoff(dtype);
      const auto q0 = test::Tensor(device, dtype, {T, H, N + R}).fill_normal(1);
      auto q = test::Tensor(device, dtype, {T, H, N + R});
      q.set(q0.values());
      const auto kv = test::Tensor(device, dtype, {T, H, N + 5}).fill_normal(2);
      const auto latent = test::Tensor(device, dtype, {T, 9}).fill_normal(3);
      const auto angles = test::Tensor(device, DType::f32, {P, R / 2}).fill_normal(4);
      auto cos = test::Tensor(device, DType::f32, {P, R / 2}),
           sin = test::Tensor(device, DType::f32, {P, R / 2});
      for (int64_t i = 0; i < P * R / 2; ++i) {
        cos.set_element(i, std::cos(angles[i]));
        sin.set_element(i, std::sin(angles[i]));
      }
      auto positions = test::Tensor(device, DType::i32, {T});
      positions.set({0, 6, 2, 2, 5});
      const auto k = test::Tensor(device, dtype, {T, H, N + R}).poison();
      Stream s = test::stream(device);
      mla_assemble(s, {.q = q,
                       .k = k,
                       .k_nope = kv.view().columns(0, N),
                       .k_pe = latent.view().columns(5, 9),
                       .cos = cos,
                       .sin = sin,
                       .positions = positions});
      s.synchronize();
      const auto rotated = [&](const std::vector<double>& x, size_t at, int64_t t, int64_t i,
                               double sign) {
        const auto p = static_cast<int64_t>(positions[t]);
        const double c = cos[p * R / 2 + i / 2], w = sign * sin[p * R / 2 + i / 2];
        const double a = x[at - static_cast<size_t>(i % 2)],
                     b = x[at - static_cast<size_t>(i % 2) + 1];
        return i % 2 == 0 ? a * c - b * w : a * w + b * c;
      };
      const auto q0v = q0.values(), qv = q.values(), kvv = kv.values(), kk = k.values(),
                 lv = latent.values();
      for (int64_t t = 0; t < T; ++t)
        for (int64_t h = 0; h < H; ++h)
          for (int64_t i = 0; i < N + R; ++i) {
            const auto at = static_cast<size_t>((t * H + h) * (N + R) + i);
            const double want_q = i < N ? q0v[at] : rotated(q0v, at, t, i - N, 1);
            const double want_k =
                i < N ? kvv[static_cast<size_t>((t * H + h) * (N + 5) + i)]
                      : rotated(lv, static_cast<size_t>(t * 9 + 5 + i - N), t, i - N, 1);
            ASSERT_NEAR(qv[at], want_q, 2 * u * (1 + std::abs(want_q)));
            ASSERT_NEAR(kk[at], want_k, 2 * u * (1 + std::abs(want_k)));
          }

      const auto dq0 = test::Tensor(device, dtype, {T, H, N + R}).fill_normal(5),
                 dk = test::Tensor(device, dtype, {T, H, N + R}).fill_normal(6);
      auto dq = test::Tensor(device, dtype, {T, H, N + R});
      dq.set(dq0.values());
      const auto dkv = test::Tensor(device, dtype, {T, H, N + 5}).poison(),
                 dlatent = test::Tensor(device, dtype, {T, 9}).poison();
      mla_assemble_backward(s, {.dq = dq,
                                .dk_nope = dkv.view().columns(0, N),
                                .dk_pe = dlatent.view().columns(5, 9),
                                .dk = dk,
                                .cos = cos,
                                .sin = sin,
                                .positions = positions});
      s.synchronize();
      const auto dq0v = dq0.values(), dqv = dq.values(), dkk = dk.values(), dkvv = dkv.values(),
                 dlv = dlatent.values();
      for (int64_t t = 0; t < T; ++t) {
        std::vector<double> sum(R);
        for (int64_t h = 0; h < H; ++h)
          for (int64_t i = 0; i < N + R; ++i) {
            const auto at = static_cast<size_t>((t * H + h) * (N + R) + i);
            const double want = i < N ? dq0v[at] : rotated(dq0v, at, t, i - N, -1);
            ASSERT_NEAR(dqv[at], want, 2 * u * (1 + std::abs(want)));
            if (i < N) {
              ASSERT_EQ(dkvv[static_cast<size_t>((t * H + h) * (N + 5) + i)], dkk[at]);
            } else {
              sum[static_cast<size_t>(i - N)] += dkk[at];
            }
          }
        for (int64_t i = 0; i < 9; ++i) {
          const double got = dlv[static_cast<size_t>(t * 9 + i)];
          if (i < 5) {
            ASSERT_TRUE(std::isnan(got));
          } else {
            const double want = rotated(sum, static_cast<size_t>(i - 5), t, i - 5, -1);
            ASSERT_NEAR(got, want, 2 * u * (1 + std::abs(want)) + 1e-6);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace nereus::ops
