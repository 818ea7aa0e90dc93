#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/philox.h"
#include "ops/attention_judge_test.h"

namespace nereus::ops {
namespace {

struct Case : AttentionSizes {
  Device device;
  DType dtype;
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
          out.push_back({{B, S, H, Dqk, Dv}, device, dtype, mask});
  // Documents within, over and across the tiles of a GPU's kernel.
  const int64_t wide[][5] = {{1, 1000, 2, 192, 128}, {3, 127, 3, 64, 64}, {2, 513, 1, 128, 72}};
  for (const Device device : test::devices())
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const uint32_t document : {3u, 60u, 300u})
        for (const auto& [B, S, H, Dqk, Dv] : wide)
          out.push_back({{B, S, H, Dqk, Dv}, device, dtype, AttentionMask::document, document});
  return out;
}

class AttentionTest : public testing::TestWithParam<Case> {};

TEST_P(AttentionTest, ForwardAndBackwardAgreeWithTheFormulas) {
  const Case& c = GetParam();
  const int64_t T = c.B * c.S;
  const AttentionTensors x(c.device, c.dtype, c);
  // v and dv lie in the right half of a wider tensor, as in the model.
  const auto kv = AttentionTensors::normal(c.device, c.dtype, {T, c.H, 2 * c.Dv}, 3),
             dkv = AttentionTensors::poisoned(c.device, c.dtype, {T, c.H, 2 * c.Dv});
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
  AttentionCall call = x.call(first, static_cast<float>(scale));
  call.v = kv.view().columns(c.Dv, 2 * c.Dv);
  call.dv = dkv.view().columns(c.Dv, 2 * c.Dv);
  call.mask = c.mask;
  call.both(s);
  s.synchronize();

  const AttentionJudge want(c, x.q.values(), x.k.values(), v_values, x.dout.values(),
                            first.values(), scale);
  // Sums over S and D of rounded numbers; bf16 rounds o, which delta is made from, too.
  const double tolerance = c.dtype == DType::f32 ? 2e-6 : 0.02;
  EXPECT_LT(test::normwise_error(x.o.values(), want.o), tolerance);
  EXPECT_LT(test::normwise_error(by_token(x.lse), want.lse), c.dtype == DType::f32 ? 1e-6 : 1e-5);
  EXPECT_LT(test::normwise_error(x.dq.values(), want.dq), 2 * tolerance + 1e-9);
  EXPECT_LT(test::normwise_error(x.dk.values(), want.dk), 2 * tolerance + 1e-9);
  std::vector<double> dv_values;
  const auto all = dkv.values();
  for (size_t i = 0; i < all.size(); ++i) {
    const bool right = i % static_cast<size_t>(2 * c.Dv) >= static_cast<size_t>(c.Dv);
    if (right) {
      dv_values.push_back(all[i]);
    } else {
      ASSERT_TRUE(std::isnan(all[i])) << "wrote outside of dv";
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
  AttentionTensors x(Device::cpu(), DType::f32, {1, kS, 1, kD, kD});
  x.v.fill(1);
  const auto first = test::Tensor(Device::cpu(), DType::i32, {kS}).fill(0);
  Stream s = test::stream(Device::cpu());
  AttentionCall call = x.call(first, 0.25f);
  call.k = x.q;
  call.forward(s);
  const auto got = x.o.values();
  for (const double o : got) ASSERT_NEAR(o, 1, 1e-5);  // a mean of ones
}

// What a test of attention needs, small: every tensor a view into a wider one, poisoned around it.
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
        ADD_FAILURE() << "wrote outside of the result";
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
    AttentionCall{.o = o.view(),
                  .lse = lse,
                  .dq = dq.view(),
                  .dk = dk.view(),
                  .dv = dv.view(),
                  .delta = delta,
                  .q = q.view(),
                  .k = k.view(),
                  .v = v.view(),
                  .dout = dout.view(),
                  .first_key = first,
                  .sequence = T,
                  .scale = 0.3f}
        .both(s);
    const AttentionJudge want({1, T, H, Dqk, Dv}, q.values(false), k.values(false), v.values(false),
                              dout.values(false), std::vector<double>(T, 0),
                              static_cast<double>(0.3f));
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
  const AttentionTensors x(Device::cpu(), dtype, {B, S, H, D, D}, std);
  auto first = test::Tensor(Device::cpu(), DType::i32, {T});
  for (int64_t t = 0; t < T; ++t)
    first.view().as<int32_t>()[t] =
        static_cast<int32_t>(mask == AttentionMask::causal ? t - t % S : t - t % S % 37);
  Stream s(Device::cpu(), &pool);
  AttentionCall call = x.call(first, 0.25f);
  call.mask = mask;
  call.both(s);
  return {x.o.values(), by_token(x.lse), x.dq.values(), x.dk.values(), x.dv.values()};
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
  AttentionTensors x(Device::cpu(), DType::f32, {1, T, H, D, D});
  auto first = test::Tensor(Device::cpu(), DType::i32, {T});
  for (int64_t t = 0; t < T; ++t) first.view().as<int32_t>()[t] = t < 25 ? 0 : 25;
  Stream s = test::stream(Device::cpu());
  AttentionCall call = x.call(first, 0.5f);
  call.mask = AttentionMask::document;
  const auto value = [&] {
    call.forward(s);
    double sum = 0;
    for (int64_t i = 0; i < T * H * D; ++i) sum += x.o[i] * x.dout[i];
    return sum;
  };
  value();
  call.backward(s);
  constexpr float kStep = 0x1p-7f;
  const auto compare = [&](test::Tensor& of, const test::Tensor& gradient, const char* name) {
    for (const int64_t i : {0, 1, 50, 96, 99, 100, 101, 170, 239}) {
      float& element = of.view().as<float>()[i];
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
  compare(x.q, x.dq, "dq");
  compare(x.k, x.dk, "dk");
  compare(x.v, x.dv, "dv");
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

// Before memory is taken: a kernel would leave out what lies beyond.
TEST(AttentionErrors, HeadsWiderThanAGpusKernelsAreRefusedWhenAGpuIsPlanned) {
  using testing::HasSubstr, testing::ThrowsMessage;
  Stream gpu = Stream::meta_of_gpu(), cpu = Stream(Device::meta());
  const auto plan = [](Stream& s, int64_t qk, int64_t v) {
    const test::Tensor q(Device::cpu(), DType::f32, {4, 2, qk}),
        o(Device::cpu(), DType::f32, {4, 2, v});
    return attention_backward_workspace(s, {.q = q, .k = q, .v = o, .sequence = 4});
  };
  EXPECT_NO_THROW(plan(gpu, 256, 256));
  EXPECT_NO_THROW(plan(cpu, 576, 512));
  EXPECT_THAT(([&] { plan(gpu, 264, 128); }),
              ThrowsMessage<Error>(HasSubstr("on a GPU, whose kernels take up to 256")));
  EXPECT_THAT(([&] { plan(gpu, 192, 264); }),
              ThrowsMessage<Error>(HasSubstr("and 264 (values: v_head_dim)")));
}

TEST(AttentionErrors, AGpuRefusesHeadsThatAreWiderThanItsKernels) {
  using testing::HasSubstr, testing::ThrowsMessage;
  for (const Device device : test::devices()) {
    if (device.kind == Device::Kind::cpu) continue;
    AttentionTensors x(device, DType::f32, {1, 4, 2, 264, 16});
    const auto first = test::Tensor(device, DType::i32, {4}).fill(0);
    Stream s = test::stream(device);
    const AttentionCall call = x.call(first, 1);
    EXPECT_THAT([&] { call.forward(s); },
                ThrowsMessage<Error>(HasSubstr("kernels take up to 256")));
    EXPECT_THAT([&] { call.backward(s); },
                ThrowsMessage<Error>(HasSubstr("kernels take up to 256")));
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
