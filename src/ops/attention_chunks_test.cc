#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "ops/attention_judge_test.h"

namespace nereus::ops {
namespace {

// Two chunks of every sequence as queries and all keys, as a rank of context parallelism has them,
// against the same rows of the whole attention; together with the other chunks' they give dk and
// dv.
class ChunksOfQueries : public testing::TestWithParam<int64_t> {};
TEST_P(ChunksOfQueries, AgainstAllKeysAreTheirPartOfTheWhole) {
  constexpr int64_t B = 2, H = 3, Dqk = 24, Dv = 16, kChunks = 4;
  const int64_t S = GetParam(), C = S / kChunks;
  constexpr float kScale = 0.2f;
  for (const Device device : test::devices()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const AttentionMask mask : {AttentionMask::causal, AttentionMask::document}) {
        // Chunks are the whole's terms in another order; in bf16 dk and dv are rounded a chunk.
        const double error = dtype == DType::f32 ? 2e-6 : 0.02;
        const auto poisoned = [&](const Shape& shape) {
          return AttentionTensors::poisoned(device, dtype, shape);
        };
        const AttentionTensors x(device, dtype, {B, S, H, Dqk, Dv});
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
        AttentionCall whole = x.call(first, kScale);
        whole.mask = mask;
        whole.both(s);
        s.synchronize();

        const auto chunk_dk = poisoned({B * S, H, Dqk}), chunk_dv = poisoned({B * S, H, Dv});
        // Rows [b S + c C, ..) of a tensor of B * S tokens, of all b, as a tensor of its own.
        const auto chunk = [&](const test::Tensor& of, int64_t c) {
          Shape shape = of.shape();
          shape[0] = B * C;
          test::Tensor out(device, ConstTensorView(of).dtype, shape);
          const int64_t width = of.shape().count() / (B * S);
          const auto values = of.values();
          std::vector<double> mine;
          for (int64_t b = 0; b < B; ++b)
            mine.insert(mine.end(), values.begin() + (b * S + c * C) * width,
                        values.begin() + (b * S + (c + 1) * C) * width);
          out.set(mine);
          return out;
        };
        for (int64_t c = kChunks - 1; c >= 0; --c) {
          const auto q = chunk(x.q, c), dout = chunk(x.dout, c), first_key = chunk(first, c);
          const AttentionTensors y(device, dtype, {B, C, H, Dqk, Dv});  // its results
          AttentionCall call = whole;
          call.o = y.o;
          call.lse = y.lse;
          call.dq = y.dq;
          call.dk = chunk_dk;
          call.dv = chunk_dv;
          call.delta = y.delta;
          call.q = q;
          call.dout = dout;
          call.first_key = first_key;
          call.sequence = C;
          call.key_sequence = S;
          call.chunk_start = c * C;
          call.accumulate = c < kChunks - 1;
          call.both(s);
          s.synchronize();
          EXPECT_LT(test::normwise_error(y.o.values(), chunk(x.o, c).values()), error);
          EXPECT_LT(test::normwise_error(y.dq.values(), chunk(x.dq, c).values()), error);
        }
        EXPECT_LT(test::normwise_error(chunk_dk.values(), x.dk.values()), error);
        EXPECT_LT(test::normwise_error(chunk_dv.values(), x.dv.values()), error);
      }
    }
  }
}
// The longer: chunks of several tiles, whose queries several blocks of keys add to.
INSTANTIATE_TEST_SUITE_P(Attention, ChunksOfQueries, testing::Values(80, 680));

// No sum of our own kernels has an order that could change.
TEST(Attention, OwnKernelsGiveTheSameBitsEachTime) {
  constexpr int64_t S = 900, H = 3, Dqk = 192, Dv = 128;
  for (const Device device : test::devices()) {
    std::vector<double> starts(S);
    for (int64_t t = 0; t < S; ++t) starts[static_cast<size_t>(t)] = t < 333 ? 0 : 333;
    auto documents = test::Tensor(device, DType::i32, {S});
    documents.set(starts);
    const auto one = test::Tensor(device, DType::i32, {S}).fill(0);
    Stream s = test::stream(device);
    AttentionTensors x(device, DType::bf16, {1, S, H, Dqk, Dv});
    const auto run = [&](AttentionMask mask) {
      x.poison_results();
      AttentionCall call = x.call(mask == AttentionMask::causal ? one : documents, 0.07f);
      call.mask = mask;
      call.kernels.unordered = true;
      call.both(s);
      s.synchronize();
      return std::vector{x.o.values(), x.lse.values(), x.dq.values(), x.dk.values(), x.dv.values()};
    };
    for (const AttentionMask mask : {AttentionMask::document, AttentionMask::causal}) {
      // A CPU has one kernel for both.
      if (mask == AttentionMask::causal && device.kind == Device::Kind::cpu) continue;
      const auto once = run(mask);
      for (const auto& values : once)
        for (const double v : values) ASSERT_TRUE(std::isfinite(v));
      for (int i = 0; i < 3; ++i) EXPECT_TRUE(run(mask) == once);
    }
  }
}

// On a GPU a thread block computes one tile after the other: what it computes is not to depend on
// the tiles before. The same heads, few enough at a time that each tile has a block of its own, are
// the judge; short documents make for many ends of tiles.
TEST(Attention, AGpusThreadBlocksComputeEachTileAsIfItWereTheirFirst) {
  constexpr int64_t S = 2048, H = 32, kAtOnce = 4, Dqk = 192, Dv = 128, kDocument = 512;
  for (const Device device : test::devices()) {
    if (device.kind == Device::Kind::cpu) continue;
    std::vector<double> starts(S);
    for (int64_t t = 0; t < S; ++t)
      starts[static_cast<size_t>(t)] = static_cast<double>(t - t % kDocument);
    auto documents = test::Tensor(device, DType::i32, {S});
    documents.set(starts);
    Stream s = test::stream(device);
    AttentionTensors x(device, DType::bf16, {1, S, H, Dqk, Dv});
    AttentionCall call = x.call(documents, 0.07f);
    call.mask = AttentionMask::document;
    for (int64_t h = 0; h < H; h += kAtOnce) {
      AttentionCall part = call;
      part.o = call.o.slice(1, h, h + kAtOnce);
      part.lse = call.lse.slice(1, h, h + kAtOnce);
      part.q = call.q.slice(1, h, h + kAtOnce);
      part.k = call.k.slice(1, h, h + kAtOnce);
      part.v = call.v.slice(1, h, h + kAtOnce);
      part.forward(s);
    }
    s.synchronize();
    const auto o = x.o.values(), lse = x.lse.values();
    for (int i = 0; i < 6; ++i) {
      x.poison_results();
      call.forward(s);
      s.synchronize();
      EXPECT_TRUE(x.o.values() == o && x.lse.values() == lse) << "run " << i;
    }
  }
}

}  // namespace
}  // namespace nereus::ops
