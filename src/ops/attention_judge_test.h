// What the tests of attention share: one call with its backward pass, the judge, and tensors.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "ops/attention.h"
#include "test/test_tensor.h"

namespace nereus::ops {

// The arguments of attention_forward and attention_backward, which are mostly the same.
struct AttentionCall {
  TensorView o, lse, dq, dk, dv, delta;
  ConstTensorView q, k, v, dout, first_key;
  int64_t sequence = 0;
  float scale = 1;
  AttentionMask mask = AttentionMask::causal;
  int64_t key_sequence = 0, chunk_start = 0;
  bool accumulate = false;
  AttentionKernels kernels = {};

  void forward(Stream& s) const {
    attention_forward(s, {.o = o,
                          .lse = lse,
                          .q = q,
                          .k = k,
                          .v = v,
                          .first_key = first_key,
                          .sequence = sequence,
                          .scale = scale,
                          .mask = mask,
                          .kernels = kernels,
                          .key_sequence = key_sequence,
                          .chunk_start = chunk_start});
  }
  void backward(Stream& s) const {
    attention_backward(s, {.dq = dq,
                           .dk = dk,
                           .dv = dv,
                           .delta = delta,
                           .dout = dout,
                           .o = o,
                           .lse = lse,
                           .q = q,
                           .k = k,
                           .v = v,
                           .first_key = first_key,
                           .sequence = sequence,
                           .scale = scale,
                           .mask = mask,
                           .kernels = kernels,
                           .key_sequence = key_sequence,
                           .chunk_start = chunk_start,
                           .accumulate = accumulate});
  }
  void both(Stream& s) const {
    forward(s);
    backward(s);
  }
};

struct AttentionSizes {
  int64_t B, S, H, Dqk, Dv;
  int64_t tokens() const { return B * S; }
};

// Random q, k, v and dout, and poisoned results.
struct AttentionTensors {
  AttentionTensors(Device device, DType dtype, const AttentionSizes& n, double std = 1)
      : q(normal(device, dtype, {n.tokens(), n.H, n.Dqk}, 1, std)),
        k(normal(device, dtype, {n.tokens(), n.H, n.Dqk}, 2, std)),
        v(normal(device, dtype, {n.tokens(), n.H, n.Dv}, 3, std)),
        dout(normal(device, dtype, {n.tokens(), n.H, n.Dv}, 4, std)),
        o(poisoned(device, dtype, {n.tokens(), n.H, n.Dv})),
        dq(poisoned(device, dtype, {n.tokens(), n.H, n.Dqk})),
        dk(poisoned(device, dtype, {n.tokens(), n.H, n.Dqk})),
        dv(poisoned(device, dtype, {n.tokens(), n.H, n.Dv})),
        lse(poisoned(device, DType::f32, {n.B, n.H, n.S})),
        delta(poisoned(device, DType::f32, {n.B, n.H, n.S})) {}

  static test::Tensor normal(Device device, DType dtype, const Shape& shape, uint64_t seed,
                             double std = 1) {
    return test::Tensor(device, dtype, shape).fill_normal(seed, 0, std);
  }
  static test::Tensor poisoned(Device device, DType dtype, const Shape& shape) {
    return test::Tensor(device, dtype, shape).poison();
  }

  void poison_results() {
    for (test::Tensor* t : {&o, &dq, &dk, &dv, &lse, &delta}) t->poison();
  }

  // Causal, over sequences as long as the tensors'.
  AttentionCall call(ConstTensorView first_key, float scale) const {
    return {.o = o,
            .lse = lse,
            .dq = dq,
            .dk = dk,
            .dv = dv,
            .delta = delta,
            .q = q,
            .k = k,
            .v = v,
            .dout = dout,
            .first_key = first_key,
            .sequence = lse.shape()[2],
            .scale = scale};
  }

  test::Tensor q, k, v, dout, o, dq, dk, dv, lse, delta;
};

// A [B, H, S] tensor's values in the order [T, H].
inline std::vector<double> by_token(const test::Tensor& x) {
  const int64_t B = x.shape()[0], H = x.shape()[1], S = x.shape()[2];
  const auto values = x.values();
  std::vector<double> out;
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0; t < S; ++t)
      for (int64_t h = 0; h < H; ++h)
        out.push_back(values[static_cast<size_t>((b * H + h) * S + t)]);
  return out;
}

// Everything in double, from the formulas of the header.
struct AttentionJudge {
  AttentionJudge(const AttentionSizes& c, const std::vector<double>& q,
                 const std::vector<double>& k, const std::vector<double>& v,
                 const std::vector<double>& dout, const std::vector<double>& first, double scale)
      : o(dout.size()),
        lse(static_cast<size_t>(c.B * c.S * c.H)),
        dq(q.size()),
        dk(k.size()),
        dv(v.size()) {
    const int64_t T = c.B * c.S;
    const auto at = [&](int64_t t, int64_t h, int64_t d, int64_t D) {
      return static_cast<size_t>((t * c.H + h) * D + d);
    };
    for (int64_t h = 0; h < c.H; ++h) {
      for (int64_t t = 0; t < T; ++t) {
        const auto begin = static_cast<int64_t>(first[static_cast<size_t>(t)]);
        std::vector<double> p(static_cast<size_t>(t + 1 - begin)), dp(p.size());
        double sum = 0, top = -1e300;
        for (int64_t j = begin; j <= t; ++j) {
          double score = 0;
          for (int64_t d = 0; d < c.Dqk; ++d)
            score += q[at(t, h, d, c.Dqk)] * k[at(j, h, d, c.Dqk)];
          p[static_cast<size_t>(j - begin)] = score * scale;
          top = std::max(top, score * scale);
        }
        for (double& x : p) sum += x = std::exp(x - top);
        for (double& x : p) x /= sum;
        lse[static_cast<size_t>(t * c.H + h)] = top + std::log(sum);
        double delta = 0;
        for (int64_t j = begin; j <= t; ++j) {
          const double pj = p[static_cast<size_t>(j - begin)];
          for (int64_t d = 0; d < c.Dv; ++d) {
            o[at(t, h, d, c.Dv)] += pj * v[at(j, h, d, c.Dv)];
            dv[at(j, h, d, c.Dv)] += pj * dout[at(t, h, d, c.Dv)];
            dp[static_cast<size_t>(j - begin)] += dout[at(t, h, d, c.Dv)] * v[at(j, h, d, c.Dv)];
          }
          delta += pj * dp[static_cast<size_t>(j - begin)];
        }
        for (int64_t j = begin; j <= t; ++j) {
          const double ds = p[static_cast<size_t>(j - begin)] *
                            (dp[static_cast<size_t>(j - begin)] - delta) * scale;
          for (int64_t d = 0; d < c.Dqk; ++d) {
            dq[at(t, h, d, c.Dqk)] += ds * k[at(j, h, d, c.Dqk)];
            dk[at(j, h, d, c.Dqk)] += ds * q[at(t, h, d, c.Dqk)];
          }
        }
      }
    }
  }
  std::vector<double> o, lse, dq, dk, dv;
};

}  // namespace nereus::ops
