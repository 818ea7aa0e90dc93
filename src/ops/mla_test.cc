#include "ops/mla.h"

#include <gtest/gtest.h>

#include "test/test_tensor.h"

namespace nereus::ops {
namespace {

// `gap` columns of kv's heads and of the latent's rows are not the op's; those of the latent come
// first.
struct Size {
  int64_t H, N, R, gap;
};

TEST(MlaAssemble, RotatesByTheFormulaAndItsBackwardIsTheTranspose) {
  for (const Device device : test::devices()) {
    for (const auto& [dtype, size] : {std::pair{DType::f32, Size{3, 6, 4, 5}},
                                      {DType::bf16, Size{3, 6, 4, 5}},
                                      {DType::f32, Size{5, 16, 8, 8}},
                                      {DType::bf16, Size{5, 16, 8, 8}},
                                      {DType::f32, Size{37, 128, 64, 128}},
                                      {DType::bf16, Size{37, 128, 64, 128}},
                                      {DType::bf16, Size{1, 8, 2048, 8}}}) {
      const int64_t H = size.H, N = size.N, R = size.R, gap = size.gap;
      constexpr int64_t T = 5, P = 7;
      const double u = test::unit_roundoff(dtype);
      const auto q0 = test::Tensor(device, dtype, {T, H, N + R}).fill_normal(1);
      auto q = test::Tensor(device, dtype, {T, H, N + R});
      q.set(q0.values());
      const auto kv = test::Tensor(device, dtype, {T, H, N + gap}).fill_normal(2);
      const auto latent = test::Tensor(device, dtype, {T, R + gap}).fill_normal(3);
      const auto angles = test::Tensor(device, DType::f32, {P, R / 2}).fill_normal(4);
      auto cos = test::Tensor(device, DType::f32, {P, R / 2}),
           sin = test::Tensor(device, DType::f32, {P, R / 2});
      std::vector<double> cos_values = angles.values(), sin_values = cos_values;
      for (double& angle : cos_values) angle = std::cos(angle);
      for (double& angle : sin_values) angle = std::sin(angle);
      cos.set(cos_values);
      sin.set(sin_values);
      cos_values = cos.values();  // rounded
      sin_values = sin.values();
      auto positions = test::Tensor(device, DType::i32, {T});
      const std::vector<double> position = {0, 6, 2, 2, 5};
      positions.set(position);
      const auto k = test::Tensor(device, dtype, {T, H, N + R}).poison();
      Stream s = test::stream(device);
      mla_assemble(s, {.q = q,
                       .k = k,
                       .k_nope = kv.view().columns(0, N),
                       .k_pe = latent.view().columns(gap, R + gap),
                       .cos = cos,
                       .sin = sin,
                       .positions = positions});
      s.synchronize();
      const auto rotated = [&](const std::vector<double>& x, size_t at, int64_t t, int64_t i,
                               double sign) {
        const auto angle =
            static_cast<size_t>(position[static_cast<size_t>(t)]) * static_cast<size_t>(R / 2) +
            static_cast<size_t>(i / 2);
        const double c = cos_values[angle], w = sign * sin_values[angle];
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
                i < N ? kvv[static_cast<size_t>((t * H + h) * (N + gap) + i)]
                      : rotated(lv, static_cast<size_t>(t * (R + gap) + gap + i - N), t, i - N, 1);
            ASSERT_NEAR(qv[at], want_q, 2 * u * (1 + std::abs(want_q)));
            ASSERT_NEAR(kk[at], want_k, 2 * u * (1 + std::abs(want_k)));
          }

      const auto dq0 = test::Tensor(device, dtype, {T, H, N + R}).fill_normal(5),
                 dk = test::Tensor(device, dtype, {T, H, N + R}).fill_normal(6);
      auto dq = test::Tensor(device, dtype, {T, H, N + R});
      dq.set(dq0.values());
      const auto dkv = test::Tensor(device, dtype, {T, H, N + gap}).poison(),
                 dlatent = test::Tensor(device, dtype, {T, R + gap}).poison();
      mla_assemble_backward(s, {.dq = dq,
                                .dk_nope = dkv.view().columns(0, N),
                                .dk_pe = dlatent.view().columns(gap, R + gap),
                                .dk = dk,
                                .cos = cos,
                                .sin = sin,
                                .positions = positions});
      s.synchronize();
      const auto dq0v = dq0.values(), dqv = dq.values(), dkk = dk.values(), dkvv = dkv.values(),
                 dlv = dlatent.values();
      for (int64_t t = 0; t < T; ++t) {
        std::vector<double> sum(static_cast<size_t>(R));
        for (int64_t h = 0; h < H; ++h)
          for (int64_t i = 0; i < N + R; ++i) {
            const auto at = static_cast<size_t>((t * H + h) * (N + R) + i);
            const double want = i < N ? dq0v[at] : rotated(dq0v, at, t, i - N, -1);
            ASSERT_NEAR(dqv[at], want, 2 * u * (1 + std::abs(want)));
            if (i < N) {
              ASSERT_EQ(dkvv[static_cast<size_t>((t * H + h) * (N + gap) + i)], dkk[at]);
            } else {
              sum[static_cast<size_t>(i - N)] += dkk[at];
            }
          }
        for (int64_t i = 0; i < R + gap; ++i) {
          const double got = dlv[static_cast<size_t>(t * (R + gap) + i)];
          if (i < gap) {
            ASSERT_TRUE(std::isnan(got));
          } else {
            const double want = rotated(sum, static_cast<size_t>(i - gap), t, i - gap, -1);
            ASSERT_NEAR(got, want, 2 * u * (1 + std::abs(want)) + 4e-7 * static_cast<double>(H));
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace nereus::ops
