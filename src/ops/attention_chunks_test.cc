#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "ops/attention.h"
#include "test/test_tensor.h"

namespace nereus::ops {
namespace {

// Two chunks of every sequence as queries and all keys, as a rank of context parallelism has them,
// against the same rows of the whole attention; together with the other chunks' they give dk and
// dv.
TEST(Attention, ChunksOfQueriesAgainstAllKeysAreTheirPartOfTheWhole) {
  constexpr int64_t B = 2, S = 80, H = 3, Dqk = 24, Dv = 16, kChunks = 4, C = S / kChunks;
  constexpr float kScale = 0.2f;
  for (const Device device : test::devices()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const AttentionMask mask : {AttentionMask::causal, AttentionMask::document}) {
        // Chunks are the whole's terms in another order; in bf16 dk and dv are rounded a chunk.
        const double error = dtype == DType::f32 ? 2e-6 : 0.02;
        const auto normal = [&](uint64_t seed, const Shape& shape) {
          return test::Tensor(device, dtype, shape).fill_normal(seed);
        };
        const auto poisoned = [&](const Shape& shape) {
          return test::Tensor(device, dtype, shape).poison();
        };
        const auto scalars = [&](int64_t length) {
          return test::Tensor(device, DType::f32, {B, H, length}).poison();
        };
        const auto q = normal(1, {B * S, H, Dqk}), k = normal(2, {B * S, H, Dqk}),
                   v = normal(3, {B * S, H, Dv}), dout = normal(4, {B * S, H, Dv});
        const auto ids = test::Tensor(device, DType::i32, {B * S}).fill_uniform_int(5, 0, 12);
        const auto first = test::Tensor(device, DType::i32, {B * S}).poison();
        const auto positions = test::Tensor(device, DType::i32, {B * S}).poison();
        Stream s = test::stream(device);
        document_bounds(s, {.first_key = first,
                            .positions = positions,
                            .ids = ids,
                            .sequence = S,
                            .eos_id = 3,
                            .mask = mask});
        const auto o = poisoned({B * S, H, Dv}), lse = scalars(S), dq = poisoned({B * S, H, Dqk}),
                   dk = poisoned({B * S, H, Dqk}), dv = poisoned({B * S, H, Dv}),
                   delta = scalars(S);
        attention_forward(s, {.o = o,
                              .lse = lse,
                              .q = q,
                              .k = k,
                              .v = v,
                              .first_key = first,
                              .sequence = S,
                              .scale = kScale,
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
                               .scale = kScale,
                               .mask = mask});
        s.synchronize();

        const auto chunk_dk = poisoned({B * S, H, Dqk}), chunk_dv = poisoned({B * S, H, Dv});
        // Rows [b S + c C, ..) of a tensor of B * S tokens, of all b, as a tensor of its own.
        const auto chunk = [&](const test::Tensor& x, int64_t c) {
          Shape shape = x.shape();
          shape[0] = B * C;
          test::Tensor out(device, ConstTensorView(x).dtype, shape);
          const int64_t width = x.shape().count() / (B * S);
          const auto values = x.values();
          std::vector<double> mine;
          for (int64_t b = 0; b < B; ++b)
            mine.insert(mine.end(), values.begin() + (b * S + c * C) * width,
                        values.begin() + (b * S + (c + 1) * C) * width);
          out.set(mine);
          return out;
        };
        for (int64_t c = kChunks - 1; c >= 0; --c) {
          const auto q_c = chunk(q, c), dout_c = chunk(dout, c), first_c = chunk(first, c);
          const auto o_c = poisoned({B * C, H, Dv}), lse_c = scalars(C),
                     dq_c = poisoned({B * C, H, Dqk}), delta_c = scalars(C);
          attention_forward(s, {.o = o_c,
                                .lse = lse_c,
                                .q = q_c,
                                .k = k,
                                .v = v,
                                .first_key = first_c,
                                .sequence = C,
                                .scale = kScale,
                                .mask = mask,
                                .key_sequence = S,
                                .first_query = c * C});
          attention_backward(s, {.dq = dq_c,
                                 .dk = chunk_dk,
                                 .dv = chunk_dv,
                                 .delta = delta_c,
                                 .dout = dout_c,
                                 .o = o_c,
                                 .lse = lse_c,
                                 .q = q_c,
                                 .k = k,
                                 .v = v,
                                 .first_key = first_c,
                                 .sequence = C,
                                 .scale = kScale,
                                 .mask = mask,
                                 .key_sequence = S,
                                 .first_query = c * C,
                                 .accumulate = c < kChunks - 1});
          s.synchronize();
          EXPECT_LT(test::normwise_error(o_c.values(), chunk(o, c).values()), error);
          EXPECT_LT(test::normwise_error(dq_c.values(), chunk(dq, c).values()), error);
        }
        EXPECT_LT(test::normwise_error(chunk_dk.values(), dk.values()), error);
        EXPECT_LT(test::normwise_error(chunk_dv.values(), dv.values()), error);
      }
    }
  }
}

// The backward pass has no sum whose order could change.
TEST(Attention, OfDocumentsGivesTheSameBitsEachTime) {
  constexpr int64_t S = 900, H = 3, Dqk = 192, Dv = 128;
  for (const Device device : test::devices()) {
    const auto normal = [&](int64_t D, uint64_t seed) {
      return test::Tensor(device, DType::bf16, {S, H, D}).fill_normal(seed);
    };
    const auto q = normal(Dqk, 1), k = normal(Dqk, 2), v = normal(Dv, 3), dout = normal(Dv, 4);
    std::vector<double> starts(S);
    for (int64_t t = 0; t < S; ++t) starts[static_cast<size_t>(t)] = t < 333 ? 0 : 333;
    auto first = test::Tensor(device, DType::i32, {S});
    first.set(starts);
    Stream s = test::stream(device);
    const auto run = [&] {
      const auto poisoned = [&](int64_t D) {
        return test::Tensor(device, DType::bf16, {S, H, D}).poison();
      };
      const auto o = poisoned(Dv), dq = poisoned(Dqk), dk = poisoned(Dqk), dv = poisoned(Dv);
      const auto lse = test::Tensor(device, DType::f32, {1, H, S}).poison(),
                 delta = test::Tensor(device, DType::f32, {1, H, S}).poison();
      attention_forward(s, {.o = o,
                            .lse = lse,
                            .q = q,
                            .k = k,
                            .v = v,
                            .first_key = first,
                            .sequence = S,
                            .scale = 0.07f,
                            .mask = AttentionMask::document});
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
                             .scale = 0.07f,
                             .mask = AttentionMask::document,
                             .unordered = true});
      s.synchronize();
      return std::vector{o.values(), lse.values(), dq.values(), dk.values(), dv.values()};
    };
    const auto once = run();
    for (const auto& values : once)
      for (const double x : values) ASSERT_TRUE(std::isfinite(x));
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(run() == once);
  }
}

}  // namespace
}  // namespace nereus::ops
