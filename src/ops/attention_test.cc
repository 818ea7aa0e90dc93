#include "ops/attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/philox.h"
#include "test/test_tensor.h"

namespace nereus::ops {
namespace {

struct Case {
  Device device;
  DType dtype;
  int64_t B, S, H, Dqk, Dv;
  AttentionMask mask;
  uint32_t document = 10;  // tokens, on average
};
void PrintTo(const Case& c, std::ostream* s) {
  *s << name_of(c.dtype) << " B" << c.B << " S" << c.S << " H" << c.H << " D" << c.Dqk << "/"
     << c.Dv << (c.mask == AttentionMask::document ? " documents of " : " causal, not ")
     << c.document;
}

std::vector<Case> cases() {
  std::vector<Case> out;
  const int64_t sizes[][5] = {{1, 1, 1, 8, 8},       {2, 7, 3, 12, 8},   {1, 130, 2, 24, 16},
                              {2, 200, 2, 192, 128}, {1, 700, 2, 10, 6}, {1, 1100, 4, 5, 3}};
  for (const Device device : test::devices())
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const AttentionMask mask : {AttentionMask::causal, AttentionMask::document})
        for (const auto& [B, S, H, Dqk, Dv] : sizes)
          out.push_back({device, dtype, B, S, H, Dqk, Dv, mask});
  // Documents within, over and across the tiles of a GPU's kernel.
  const int64_t wide[][5] = {{1, 1000, 2, 192, 128}, {3, 127, 3, 64, 64}, {2, 513, 1, 128, 72}};
  for (const Device device : test::devices())
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const uint32_t document : {3u, 60u, 300u})
        for (const auto& [B, S, H, Dqk, Dv] : wide)
          out.push_back({device, dtype, B, S, H, Dqk, Dv, AttentionMask::document, document});
  return out;
}

// A [B, H, S] tensor's values in the order [T, H].
std::vector<double> by_token(const test::Tensor& x) {
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
struct Judge {
  Judge(const Case& c, const std::vector<double>& q, const std::vector<double>& k,
        const std::vector<double>& v, const std::vector<double>& dout,
        const std::vector<double>& first, double scale)
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

class AttentionTest : public testing::TestWithParam<Case> {};

TEST_P(AttentionTest, ForwardAndBackwardAgreeWithTheFormulas) {
  const Case& c = GetParam();
  const int64_t T = c.B * c.S;
  const auto tensor = [&](int64_t D, uint64_t seed) {
    return test::Tensor(c.device, c.dtype, {T, c.H, D}).fill_normal(seed);
  };
  const auto q = tensor(c.Dqk, 1), k = tensor(c.Dqk, 2), dout = tensor(c.Dv, 4);
  // v lies in the right half of a wider tensor, as in the model.
  const auto kv = tensor(2 * c.Dv, 3);
  const TensorView v = kv.view().columns(c.Dv, 2 * c.Dv);
  std::vector<double> v_values;
  {
    const auto all = kv.values();
    for (size_t row = 0; row < static_cast<size_t>(T * c.H); ++row)
      for (size_t d = 0; d < static_cast<size_t>(c.Dv); ++d)
        v_values.push_back(
            all[row * static_cast<size_t>(2 * c.Dv) + static_cast<size_t>(c.Dv) + d]);
  }
  std::vector<double> ids(static_cast<size_t>(T));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = philox(9, i).v[0] % c.document;  // 1 ends one
  auto id_tensor = test::Tensor(c.device, DType::i32, {T});
  id_tensor.set(ids);
  const auto first = test::Tensor(c.device, DType::i32, {T}).poison();
  const auto positions = test::Tensor(c.device, DType::i32, {T}).poison();
  Stream s = test::stream(c.device);
  document_bounds(s, {.first_key = first,
                      .positions = positions,
                      .ids = id_tensor,
                      .sequence = c.S,
                      .eos_id = 1,
                      .mask = c.mask});

  const double scale = 1 / std::sqrt(static_cast<double>(c.Dqk));
  const auto o = test::Tensor(c.device, c.dtype, {T, c.H, c.Dv}).poison();
  const auto lse = test::Tensor(c.device, DType::f32, {c.B, c.H, c.S}).poison();
  attention_forward(s, {.o = o,
                        .lse = lse,
                        .q = q,
                        .k = k,
                        .v = v,
                        .first_key = first,
                        .sequence = c.S,
                        .scale = static_cast<float>(scale),
                        .mask = c.mask});
  const auto dq = test::Tensor(c.device, c.dtype, {T, c.H, c.Dqk}).poison();
  const auto dk = test::Tensor(c.device, c.dtype, {T, c.H, c.Dqk}).poison();
  const auto dkv = test::Tensor(c.device, c.dtype, {T, c.H, 2 * c.Dv}).poison();
  const auto delta = test::Tensor(c.device, DType::f32, {c.B, c.H, c.S}).poison();
  attention_backward(s, {.dq = dq,
                         .dk = dk,
                         .dv = dkv.view().columns(c.Dv, 2 * c.Dv),
                         .delta = delta,
                         .dout = dout,
                         .o = o,
                         .lse = lse,
                         .q = q,
                         .k = k,
                         .v = v,
                         .first_key = first,
                         .sequence = c.S,
                         .scale = static_cast<float>(scale),
                         .mask = c.mask});
  s.synchronize();

  const auto first_values = first.values();
  const Judge want(c, q.values(), k.values(), v_values, dout.values(), first_values, scale);
  // Sums over S and D of rounded numbers; bf16 rounds o, which delta is made from, too.
  const double tolerance = c.dtype == DType::f32 ? 2e-6 : 0.02;
  EXPECT_LT(test::normwise_error(o.values(), want.o), tolerance);
  EXPECT_LT(test::normwise_error(by_token(lse), want.lse), c.dtype == DType::f32 ? 1e-6 : 1e-5);
  EXPECT_LT(test::normwise_error(dq.values(), want.dq), 2 * tolerance + 1e-9);
  EXPECT_LT(test::normwise_error(dk.values(), want.dk), 2 * tolerance + 1e-9);
  std::vector<double> dv_values;
  const auto all = dkv.values();
  for (size_t i = 0; i < all.size(); ++i) {
    const bool right = i % static_cast<size_t>(2 * c.Dv) >= static_cast<size_t>(c.Dv);
    if (right) {
      dv_values.push_back(all[i]);
    } else {
      ASSERT_TRUE(std::isnan(all[i])) << "wrote beside dv";
    }
  }
  EXPECT_LT(test::normwise_error(dv_values, want.dv), tolerance);
}
INSTANTIATE_TEST_SUITE_P(EveryDeviceTypeMaskAndSize, AttentionTest, testing::ValuesIn(cases()));

TEST(DocumentBounds, AnEndOfDocumentTokenBelongsToTheDocumentItEnds) {
  for (const Device device : test::devices()) {
    auto ids = test::Tensor(device, DType::i32, {8});
    ids.set({5, 1, 5, 5, /* next sequence */ 1, 1, 5, 1});
    const auto first = test::Tensor(device, DType::i32, {8}).poison();
    const auto positions = test::Tensor(device, DType::i32, {8}).poison();
    Stream s = test::stream(device);
    document_bounds(s, {.first_key = first,
                        .positions = positions,
                        .ids = ids,
                        .sequence = 4,
                        .eos_id = 1,
                        .mask = AttentionMask::document});
    EXPECT_EQ(first.values(), (std::vector<double>{0, 0, 2, 2, 4, 5, 6, 6}));
    EXPECT_EQ(positions.values(), (std::vector<double>{0, 1, 2, 3, 0, 1, 2, 3}));
    document_bounds(s, {.first_key = first,
                        .positions = positions,
                        .ids = ids,
                        .sequence = 4,
                        .eos_id = 1,
                        .mask = AttentionMask::causal});
    EXPECT_EQ(first.values(), (std::vector<double>{0, 0, 0, 0, 4, 4, 4, 4}));
  }
}

// Documents longer and shorter than what a GPU's thread block takes at once.
TEST(DocumentBounds, FindsTheStartOfLongDocuments) {
  constexpr int64_t B = 3, S = 5000;
  for (const Device device : test::devices()) {
    std::vector<double> ids(B * S, 5), first(B * S), position(B * S);
    for (const size_t end : {0, 1, 31, 32, 1023, 1024, 4998, 5000, 8333, 9999, 14999}) ids[end] = 1;
    for (size_t t = 0; t < ids.size(); ++t) {
      position[t] = static_cast<double>(t % S);
      first[t] = t % S == 0 || ids[t - 1] == 1 ? static_cast<double>(t) : first[t - 1];
    }
    auto id_tensor = test::Tensor(device, DType::i32, {B * S});
    id_tensor.set(ids);
    const auto first_key = test::Tensor(device, DType::i32, {B * S}).poison(),
               positions = test::Tensor(device, DType::i32, {B * S}).poison();
    Stream s = test::stream(device);
    document_bounds(s, {.first_key = first_key,
                        .positions = positions,
                        .ids = id_tensor,
                        .sequence = S,
                        .eos_id = 1,
                        .mask = AttentionMask::document});
    s.synchronize();
    EXPECT_EQ(first_key.values(), first);
    EXPECT_EQ(positions.values(), position);
  }
}

// A long sequence in 4 MiB of scratch a thread: no S x S matrix can be there.
TEST(Attention, ALongSequenceNeedsNoSquareMatrix) {
  constexpr int64_t kS = 4096, kD = 16;
  const auto q = test::Tensor(Device::cpu(), DType::f32, {kS, 1, kD}).fill_normal(1);
  const auto v = test::Tensor(Device::cpu(), DType::f32, {kS, 1, kD}).fill(1);
  auto first = test::Tensor(Device::cpu(), DType::i32, {kS}).fill(0);
  const auto o = test::Tensor(Device::cpu(), DType::f32, {kS, 1, kD}).poison();
  const auto lse = test::Tensor(Device::cpu(), DType::f32, {1, 1, kS}).poison();
  Stream s = test::stream(Device::cpu());
  attention_forward(s, {.o = o,
                        .lse = lse,
                        .q = q,
                        .k = q,
                        .v = v,
                        .first_key = first,
                        .sequence = kS,
                        .scale = 0.25f});
  const auto got = o.values();
  for (const double x : got) ASSERT_NEAR(x, 1, 1e-5);  // a mean of ones
}

// What a test of attention needs, small: every tensor a view into a wider one, poisoned beside it.
struct Wide {
  static constexpr int64_t kBefore = 3, kAfter = 2;
  Wide(DType dtype, int64_t T, int64_t H, int64_t columns, uint64_t seed)
      : tensor(Device::cpu(), dtype, {T, H, kBefore + columns + kAfter}), D(columns) {
    if (seed == 0) {
      tensor.poison();
    } else {
      tensor.fill_normal(seed);
    }
  }
  TensorView view() const { return tensor.view().columns(kBefore, kBefore + D); }
  // The columns of the view; the others must be poisoned when this is a result.
  std::vector<double> values(bool result) const {
    std::vector<double> out;
    const auto all = tensor.values();
    for (size_t i = 0; i < all.size(); ++i) {
      const auto column = static_cast<int64_t>(i) % (kBefore + D + kAfter);
      if (column >= kBefore && column < kBefore + D) {
        out.push_back(all[i]);
      } else if (result && !std::isnan(all[i])) {
        ADD_FAILURE() << "wrote beside the result";
        return out;
      }
    }
    return out;
  }
  test::Tensor tensor;
  int64_t D;
};

TEST(Attention, WorksOnStridedHeadsAndWritesNothingElse) {
  const int64_t T = 100, H = 3, Dqk = 9, Dv = 7;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Wide q(dtype, T, H, Dqk, 1), k(dtype, T, H, Dqk, 2), v(dtype, T, H, Dv, 3),
        dout(dtype, T, H, Dv, 4);
    const Wide o(dtype, T, H, Dv, 0), dq(dtype, T, H, Dqk, 0), dk(dtype, T, H, Dqk, 0),
        dv(dtype, T, H, Dv, 0);
    const auto lse = test::Tensor(Device::cpu(), DType::f32, {1, H, T}).poison(),
               delta = test::Tensor(Device::cpu(), DType::f32, {1, H, T}).poison();
    auto first = test::Tensor(Device::cpu(), DType::i32, {T});
    first.fill(0);
    Stream s = test::stream(Device::cpu());
    attention_forward(s, {.o = o.view(),
                          .lse = lse,
                          .q = q.view(),
                          .k = k.view(),
                          .v = v.view(),
                          .first_key = first,
                          .sequence = T,
                          .scale = 0.3f});
    attention_backward(s, {.dq = dq.view(),
                           .dk = dk.view(),
                           .dv = dv.view(),
                           .delta = delta,
                           .dout = dout.view(),
                           .o = o.view(),
                           .lse = lse,
                           .q = q.view(),
                           .k = k.view(),
                           .v = v.view(),
                           .first_key = first,
                           .sequence = T,
                           .scale = 0.3f});
    const Case c{Device::cpu(), dtype, 1, T, H, Dqk, Dv, AttentionMask::causal};
    const Judge want(c, q.values(false), k.values(false), v.values(false), dout.values(false),
                     std::vector<double>(T, 0), static_cast<double>(0.3f));
    const double tolerance = dtype == DType::f32 ? 2e-6 : 0.02;
    EXPECT_LT(test::normwise_error(o.values(true), want.o), tolerance);
    EXPECT_LT(test::normwise_error(by_token(lse), want.lse), 1e-5);
    EXPECT_LT(test::normwise_error(dq.values(true), want.dq), 2 * tolerance);
    EXPECT_LT(test::normwise_error(dk.values(true), want.dk), 2 * tolerance);
    EXPECT_LT(test::normwise_error(dv.values(true), want.dv), 2 * tolerance);
  }
}

struct Outcome {
  std::vector<double> o, lse, dq, dk, dv;
  bool operator==(const Outcome&) const = default;
};
Outcome run_attention(ThreadPool& pool, DType dtype, int64_t B, int64_t S, int64_t H, int64_t D,
                      double std, AttentionMask mask) {
  const int64_t T = B * S;
  const auto random = [&](uint64_t seed) {
    auto t = test::Tensor(Device::cpu(), dtype, {T, H, D});
    t.fill_normal(seed, 0, std);
    return t;
  };
  const auto q = random(1), k = random(2), v = random(3), dout = random(4);
  const auto o = random(5), dq = random(6), dk = random(7), dv = random(8);
  const test::Tensor lse(Device::cpu(), DType::f32, {B, H, S}),
      delta(Device::cpu(), DType::f32, {B, H, S});
  auto first = test::Tensor(Device::cpu(), DType::i32, {T});
  for (int64_t t = 0; t < T; ++t)
    first.view().as<int32_t>()[t] =
        static_cast<int32_t>(mask == AttentionMask::causal ? t - t % S : t - t % S % 37);
  Stream s(Device::cpu(), &pool);
  attention_forward(s, {.o = o,
                        .lse = lse,
                        .q = q,
                        .k = k,
                        .v = v,
                        .first_key = first,
                        .sequence = S,
                        .scale = 0.25f,
                        .mask = mask});
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
                         .first_key = first,
                         .sequence = S,
                         .scale = 0.25f,
                         .mask = mask});
  return {o.values(), by_token(lse), dq.values(), dk.values(), dv.values()};
}

TEST(Attention, GivesTheSameBitsOnAnyNumberOfThreads) {
  ThreadPool one(1), two(2), five(5);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int64_t H : {1, 5}) {  // as tasks of their own, and by heads
      for (const AttentionMask mask : {AttentionMask::causal, AttentionMask::document}) {
        const Outcome want = run_attention(one, dtype, 1, 600, H, 8, 1, mask);
        EXPECT_TRUE(run_attention(two, dtype, 1, 600, H, 8, 1, mask) == want);
        EXPECT_TRUE(run_attention(five, dtype, 1, 600, H, 8, 1, mask) == want);
      }
    }
  }
}

// Documents do not see each other: each has the results that it has as a sequence of its own.
TEST(Attention, ADocumentIsASequenceOfItsOwn) {
  const Outcome documents =
      run_attention(test::pool(), DType::f32, 1, 37 * 9, 4, 8, 1, AttentionMask::document);
  const Outcome sequences =
      run_attention(test::pool(), DType::f32, 9, 37, 4, 8, 1, AttentionMask::causal);
  EXPECT_LT(test::normwise_error(documents.o, sequences.o), 1e-6);
  EXPECT_LT(test::normwise_error(documents.lse, sequences.lse), 1e-6);
  EXPECT_LT(test::normwise_error(documents.dq, sequences.dq), 2e-6);
  EXPECT_LT(test::normwise_error(documents.dk, sequences.dk), 2e-6);
  EXPECT_LT(test::normwise_error(documents.dv, sequences.dv), 2e-6);
}

// Scores of hundreds, largest anywhere in the row: exp neither overflows nor loses the sum when a
// later block of keys brings a larger one.
TEST(Attention, LargeScoresAreSoftenedInAnyOrder) {
  const Outcome got =
      run_attention(test::pool(), DType::f32, 1, 700, 2, 8, 15, AttentionMask::causal);
  for (const auto& values : {got.o, got.lse, got.dq, got.dk, got.dv})
    for (const double x : values) ASSERT_TRUE(std::isfinite(x));
  // o is a mean of rows of v: never beyond the largest of them.
  for (const double x : got.o) ASSERT_LT(std::abs(x), 15 * 6);
}

// The gradients are those of the function that forward computes: central differences of
// sum(o * dout), whose error is the third derivative's and that of f32, about 1e-3 at this step.
TEST(Attention, GradientsAgreeWithFiniteDifferences) {
  constexpr int64_t T = 60, H = 1, D = 4;
  const auto random = [&](uint64_t seed) {
    auto t = test::Tensor(Device::cpu(), DType::f32, {T, H, D});
    t.fill_normal(seed);
    return t;
  };
  auto q = random(1), k = random(2), v = random(3);
  const auto dout = random(4), o = random(5), dq = random(6), dk = random(7), dv = random(8);
  const test::Tensor lse(Device::cpu(), DType::f32, {1, H, T}),
      delta(Device::cpu(), DType::f32, {1, H, T});
  auto first = test::Tensor(Device::cpu(), DType::i32, {T});
  for (int64_t t = 0; t < T; ++t) first.view().as<int32_t>()[t] = t < 25 ? 0 : 25;
  Stream s = test::stream(Device::cpu());
  const auto value = [&] {
    attention_forward(s, {.o = o,
                          .lse = lse,
                          .q = q,
                          .k = k,
                          .v = v,
                          .first_key = first,
                          .sequence = T,
                          .scale = 0.5f,
                          .mask = AttentionMask::document});
    double sum = 0;
    for (int64_t i = 0; i < T * H * D; ++i) sum += o[i] * dout[i];
    return sum;
  };
  value();
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
                         .first_key = first,
                         .sequence = T,
                         .scale = 0.5f,
                         .mask = AttentionMask::document});
  constexpr float kStep = 0x1p-7f;
  const auto compare = [&](test::Tensor& x, const test::Tensor& gradient, const char* name) {
    for (const int64_t i : {0, 1, 50, 96, 99, 100, 101, 170, 239}) {
      float& element = x.view().as<float>()[i];
      const float saved = element;
      element = saved + kStep;
      const double above = value();
      element = saved - kStep;
      const double below = value();
      element = saved;
      EXPECT_NEAR(gradient[i], (above - below) / (2 * static_cast<double>(kStep)), 2e-3)
          << name << " " << i;
    }
  };
  compare(q, dq, "dq");
  compare(k, dk, "dk");
  compare(v, dv, "dv");
}

// Latent attention with absorbed projections has heads of 576 and 512.
TEST(Attention, HasRoomForTheWidestHeads) {
  for (const auto& [S, H] : {std::pair<int64_t, int64_t>{40, 4}, {600, 4}, {600, 1}}) {
    const Outcome got =
        run_attention(test::pool(), DType::f32, 1, S, H, 576, 0.05, AttentionMask::causal);
    for (const auto& values : {got.o, got.dq, got.dk, got.dv})
      for (const double x : values) ASSERT_TRUE(std::isfinite(x));
  }
}

TEST(AttentionErrors, NameTheTensorOrTheTokenThatBreaksTheContract) {
  using testing::HasSubstr, testing::ThrowsMessage;
  const test::Tensor q(Device::cpu(), DType::f32, {6, 2, 4}),
      v(Device::cpu(), DType::f32, {6, 2, 3}), wide(Device::cpu(), DType::f32, {6, 2, 5}),
      lse6(Device::cpu(), DType::f32, {1, 2, 6}), lse3(Device::cpu(), DType::f32, {2, 2, 3});
  auto first = test::Tensor(Device::cpu(), DType::i32, {6});
  Stream s = test::stream(Device::cpu());
  const auto run = [&](const std::vector<double>& first_key, const test::Tensor& k,
                       int64_t sequence) {
    first.set(first_key);
    attention_forward(s, {.o = v,
                          .lse = sequence == 3 ? lse3 : lse6,
                          .q = q,
                          .k = k,
                          .v = v,
                          .first_key = first,
                          .sequence = sequence,
                          .scale = 1});
  };
  EXPECT_THAT(
      [&] {
        run({0, 0, 0, 0, 0, 0}, wide, 6);
      },
      ThrowsMessage<Error>(
          HasSubstr("attention_forward: k is f32 [6, 2, 5], expected f32 [6, 2, 4]")));
  EXPECT_THAT(
      [&] {
        run({0, 0, 0, 0, 0, 0}, q, 4);
      },
      ThrowsMessage<Error>(HasSubstr("6 tokens are not whole sequences of 4")));
  EXPECT_THAT(
      [&] {
        run({0, 0, 0, 3, 2, 3}, q, 6);
      },
      ThrowsMessage<Error>(HasSubstr("first_key[4] is 2, expected 3 to 4")));
  EXPECT_THAT(
      [&] {
        run({0, 0, 0, 0, 4, 4}, q, 3);
      },
      ThrowsMessage<Error>(HasSubstr("first_key[3] is 0, expected 3 to 3")));
}

}  // namespace
}  // namespace nereus::ops
