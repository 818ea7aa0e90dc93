#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/philox.h"
#include "comm/thread_ranks.h"
#include "parallel/device_dispatcher.h"
#include "parallel/host_counts_dispatcher.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using test::Tensor;

constexpr int64_t kExperts = 8, kTopK = 3, kWidth = 5;

enum class Routing { random, all_to_the_first, none_to_the_last };

// The distinct experts of token t.
int32_t expert(Routing routing, int64_t t, int64_t k) {
  const auto start = static_cast<int64_t>(philox(7, static_cast<uint64_t>(t)).v[0] % kExperts);
  switch (routing) {
    case Routing::random:
      return static_cast<int32_t>((start + k * 3) % kExperts);
    case Routing::all_to_the_first:
      return static_cast<int32_t>(k);
    case Routing::none_to_the_last:
      return static_cast<int32_t>((start + k) % (kExperts - 3));
  }
  return 0;
}

double value(int64_t stream, int64_t i) {
  return static_cast<float>(
      static_cast<double>(philox(static_cast<uint64_t>(stream), static_cast<uint64_t>(i)).v[0]) /
          4294967296.0 -
      0.5);
}

// What a layer of experts does with rows: here times the expert's number plus one, plus 0.5; the
// backward pass gives rows and row weights gradients of their own.
struct Result {
  std::vector<double> rows, weights, out;   // of forward; rows of the used ones
  std::vector<double> drows, dx, dweights;  // of backward
  std::vector<double> offsets;
};

std::vector<double> read(const Stream&, ConstTensorView v) {
  std::vector<double> out;
  for (int64_t i = 0; i < v.count(); ++i)
    out.push_back(v.dtype == DType::i32 ? static_cast<double>(v.as<int32_t>()[i])
                                        : static_cast<double>(v.as<float>()[i]));
  return out;
}

Result run(TokenDispatcher& d, Stream& stream, Routing routing, int64_t first, int64_t tokens,
           int64_t first_expert, bool weigh) {
  constexpr int64_t kBytes = 1 << 20;
  Buffer own;
  std::byte* memory = d.shared_memory(stream, 2 * kBytes);
  if (memory == nullptr) {
    own = Buffer(Device::cpu(), 2 * kBytes, "arenas");
    memory = own.data();
  }
  Arena saved("saved", memory, kBytes), scratch("scratch", memory + kBytes, kBytes);
  Context ctx{stream, saved, saved, scratch};
  Tensor ids(Device::cpu(), DType::i32, {tokens, kTopK}),
      weights(Device::cpu(), DType::f32, {tokens, kTopK}),
      x(Device::cpu(), DType::f32, {tokens, kWidth}),
      addend(Device::cpu(), DType::f32, {tokens, kWidth}),
      dout(Device::cpu(), DType::f32, {tokens, kWidth});
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t k = 0; k < kTopK; ++k) {
      ids.set_element(t * kTopK + k, expert(routing, first + t, k));
      weights.set_element(t * kTopK + k, value(1, (first + t) * kTopK + k));
    }
    for (int64_t i = 0; i < kWidth; ++i) {
      x.set_element(t * kWidth + i, value(2, (first + t) * kWidth + i));
      addend.set_element(t * kWidth + i, value(3, (first + t) * kWidth + i));
      dout.set_element(t * kWidth + i, value(4, (first + t) * kWidth + i));
    }
  }
  const TokenDispatcher::Plan plan = d.plan(ctx, saved, ids);
  const auto* offsets = plan.offsets.as<int32_t>();
  const int64_t E = d.local_experts(), used = offsets[E];
  EXPECT_LE(used, plan.rows);
  const TokenDispatcher::Rows rows{.x = saved.take(DType::f32, {plan.rows, kWidth}, "x"),
                                   .weights = saved.take(DType::f32, {plan.rows}, "w")};
  d.dispatch(ctx, plan, x, weights, weigh, rows);
  Result result;
  result.offsets = read(stream, plan.offsets);
  result.rows = read(stream, rows.x.rows(0, used));
  result.weights = read(stream, rows.weights.rows(0, used));

  const auto each_row = [&](TensorView v, auto f) {
    for (int64_t e = 0; e < E; ++e)
      for (int64_t r = offsets[e]; r < offsets[e + 1]; ++r)
        for (int64_t i = 0; i < kWidth; ++i)
          v.as<float>()[r * kWidth + i] =
              f(static_cast<float>(first_expert + e + 1), v.as<float>()[r * kWidth + i]);
  };
  each_row(rows.x, [](float e, float v) { return v * e + 0.5f; });
  Tensor out = Tensor(Device::cpu(), DType::f32, {tokens, kWidth}).poison();
  d.combine(ctx, plan, rows.x, addend, out);
  result.out = out.values();

  const TensorView drows = saved.take(DType::f32, {plan.rows, kWidth}, "drows");
  const TensorView drow_weights = saved.take(DType::f32, {plan.rows}, "drow weights");
  d.combine_backward(ctx, plan, dout, drows);
  result.drows = read(stream, drows.rows(0, used));
  each_row(drows, [](float e, float v) { return v * e; });
  for (int64_t r = 0; r < used; ++r)
    drow_weights.as<float>()[r] = drows.as<float>()[r * kWidth] * rows.weights.as<float>()[r];
  Tensor dx = Tensor(Device::cpu(), DType::f32, {tokens, kWidth}).poison(),
         dweights = Tensor(Device::cpu(), DType::f32, {tokens, kTopK}).poison();
  d.dispatch_backward(ctx, plan,
                      {.dx = dx,
                       .dweights = dweights,
                       .drows = drows,
                       .drow_weights = weigh ? ConstTensorView() : drow_weights,
                       .x = x,
                       .weights = weights,
                       .addend = addend,
                       .weigh = weigh});
  result.dx = dx.values();
  result.dweights = dweights.values();
  EXPECT_EQ(scratch.used_bytes(), 0);
  return result;
}

void append(std::vector<double>& to, const std::vector<double>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

enum class Kind { host_counts, device };

class Dispatcher : public testing::TestWithParam<Kind> {
 protected:
  std::unique_ptr<TokenDispatcher> make(Communicator& group, double bound = 0) const {
    if (GetParam() == Kind::device)
      return std::make_unique<DeviceDispatcher>(group, kExperts, bound);
    return std::make_unique<HostCountsDispatcher>(group, kExperts, bound);
  }
};
INSTANTIATE_TEST_SUITE_P(OfTokens, Dispatcher, testing::Values(Kind::host_counts, Kind::device),
                         [](const auto& kind) {
                           return kind.param == Kind::device ? "device" : "host_counts";
                         });

// The judge is one rank with all tokens and all experts: the same bits, whoever holds what.
TEST_P(Dispatcher, AnyNumberOfRanksGivesTheBitsOfOne) {
  for (const Routing routing :
       {Routing::random, Routing::all_to_the_first, Routing::none_to_the_last}) {
    for (const bool weigh : {false, true}) {
      for (const int64_t tokens : {0, 1, 7}) {
        for (const int ep : {1, 2, 4, 8}) {
          SCOPED_TRACE(testing::Message()
                       << ep << " ranks of " << tokens << " tokens, routing "
                       << static_cast<int>(routing) << (weigh ? " weighed" : ""));
          Stream stream(Device::cpu(), &test::pool());
          LocalDispatcher local(kExperts);
          const Result one = run(local, stream, routing, 0, tokens * ep, 0, weigh);
          std::vector<Result> parts(static_cast<size_t>(ep));
          run_thread_ranks(ep, {.timeout = std::chrono::seconds(60)}, [&](Communicator& group) {
            Stream mine(Device::cpu(), &test::pool());
            const auto dispatcher = make(group);
            ASSERT_EQ(dispatcher->local_experts(), kExperts / ep);
            parts[static_cast<size_t>(group.rank())] =
                run(*dispatcher, mine, routing, group.rank() * tokens, tokens,
                    group.rank() * kExperts / ep, weigh);
          });
          Result all;
          double base = 0;
          all.offsets = {0};
          for (const Result& p : parts) {
            for (size_t e = 1; e < p.offsets.size(); ++e)
              all.offsets.push_back(base + p.offsets[e]);
            base += p.offsets.back();
            append(all.rows, p.rows);
            append(all.weights, p.weights);
            append(all.out, p.out);
            append(all.drows, p.drows);
            append(all.dx, p.dx);
            append(all.dweights, p.dweights);
          }
          ASSERT_EQ(all.offsets, one.offsets);
          ASSERT_EQ(all.rows, one.rows);
          ASSERT_EQ(all.weights, one.weights);
          ASSERT_EQ(all.out, one.out);
          ASSERT_EQ(all.drows, one.drows);
          ASSERT_EQ(all.dx, one.dx);
          ASSERT_EQ(all.dweights, one.dweights);
        }
      }
    }
  }
}

TEST(HostCountsDispatcher, ABoundThatIsTooSmallIsRefusedWithTheNumbers) {
  std::string message;
  try {
    run_thread_ranks(2, {.timeout = std::chrono::seconds(60)}, [&](Communicator& group) {
      Stream stream(Device::cpu(), &test::pool());
      HostCountsDispatcher dispatcher(group, kExperts, 1.25);
      run(dispatcher, stream, Routing::all_to_the_first, group.rank() * 8, 8,
          group.rank() * kExperts / 2, false);
    });
  } catch (const Error& e) {
    message = e.what();
    EXPECT_EQ(e.fault(), Fault::kConfig);
  }
  EXPECT_EQ(
      message,
      "expert parallelism: a rank of 2 receives 48 rows for its 4 experts, whose capacity is 30 "
      "(24 slots of its own, 1.25 times).\n  Routing is more skewed than the bound on receive "
      "buffers allows: raise parallelism.expert_capacity_factor, or set it to 0.");
}

// Two ranks' passes with capacity for all and with a factor of 1.25, when all 8 tokens of each
// choose the first rank's first three experts; and that with the capacity it wanted nothing is
// missing.
struct Tight {
  std::vector<Result> whole{2}, part{2};
  std::vector<int64_t> wanted = std::vector<int64_t>(2);
};
template <class Dispatcher>
Tight with_little_capacity(bool weigh) {
  constexpr int64_t kTokens = 8;
  Tight t;
  run_thread_ranks(2, {.timeout = std::chrono::seconds(60)}, [&](Communicator& group) {
    const auto me = static_cast<size_t>(group.rank());
    Stream stream(Device::cpu(), &test::pool());
    const auto once = [&](Dispatcher& d) {
      return run(d, stream, Routing::all_to_the_first, group.rank() * kTokens, kTokens,
                 group.rank() * kExperts / 2, weigh);
    };
    const Tensor overflow = Tensor(Device::cpu(), DType::i64, {1}).fill(0);
    Dispatcher enough(group, kExperts), tight(group, kExperts, 1.25);
    enough.set_overflow(overflow);
    t.whole[me] = once(enough);
    EXPECT_EQ(overflow[0], 0);
    EXPECT_EQ(enough.capacity(kTokens, kTopK), 2 * kTokens * kTopK);
    tight.set_overflow(overflow);
    t.part[me] = once(tight);
    EXPECT_EQ(tight.capacity(kTokens, kTopK), 30);
    t.wanted[me] = static_cast<int64_t>(overflow[0]);
    tight.set_capacity(t.wanted[me]);
    const Result again = once(tight);
    EXPECT_EQ(again.out, t.whole[me].out);
    EXPECT_EQ(again.dx, t.whole[me].dx);
    EXPECT_EQ(again.dweights, t.whole[me].dweights);
    EXPECT_EQ(tight.capacity(kTokens, kTopK), 48);
  });
  // 3 choices of 8 tokens of 2 ranks, all for rank 0: 16 rows for each of its first three experts.
  EXPECT_EQ(t.wanted, (std::vector<int64_t>{48, 48}));
  EXPECT_EQ(t.part[1].offsets, (std::vector<double>{0, 0, 0, 0, 0}));
  for (const Result& r : t.part)
    for (size_t i = 0; i < r.out.size(); ++i)
      EXPECT_TRUE(std::isfinite(r.out[i]) && std::isfinite(r.dx[i]));
  return t;
}

// Each expert adds its share; a token loses the shares of choices that were left out, and nothing
// else.
TEST(HostCountsDispatcher, RowsOverCapacityAreLeftOutOnEveryRankAndReported) {
  for (const bool weigh : {false, true}) {
    const Tight t = with_little_capacity<HostCountsDispatcher>(weigh);
    // Of a sender's 8 rows for an expert 8 * 30 / 48 = 5.
    EXPECT_EQ(t.part[0].offsets, (std::vector<double>{0, 10, 20, 30, 30}));
    for (size_t r = 0; r < 2; ++r) {
      int missing = 0;
      for (size_t i = 0; i < t.whole[r].out.size(); ++i)
        missing += t.part[r].out[i] != t.whole[r].out[i];
      // Slots are sorted by expert, then token: each expert's last three tokens.
      EXPECT_EQ(missing, 3 * kWidth);
    }
  }
}

// What is left out are the highest rows: the third expert's, and two of the second's.
TEST(DeviceDispatcher, RowsOverCapacityAreLeftOutAndReported) {
  const Tight t = with_little_capacity<DeviceDispatcher>(false);
  EXPECT_EQ(t.part[0].offsets, (std::vector<double>{0, 16, 30, 30, 30}));
  for (size_t r = 0; r < 2; ++r)
    for (size_t i = 0; i < t.whole[r].out.size(); ++i)
      EXPECT_NE(t.part[r].out[i], t.whole[r].out[i]) << "the third expert's part is missing";
}

TEST(HostCountsDispatcher, IsMeasuredOnTheMetaDeviceWithoutTheOthers) {
  run_thread_ranks(2, {.timeout = std::chrono::seconds(60)}, [&](Communicator& group) {
    if (group.rank() == 1) return;
    Stream meta(Device::meta());
    Arena saved("saved"), scratch("scratch");
    Context ctx{meta, saved, saved, scratch};
    HostCountsDispatcher d(group, kExperts);
    const TensorView ids(nullptr, DType::i32, {16, kTopK}),
        weights(nullptr, DType::f32, {16, kTopK}), x(nullptr, DType::bf16, {16, 128});
    const TokenDispatcher::Plan plan = d.plan(ctx, saved, ids);
    EXPECT_EQ(plan.rows, 2 * 16 * kTopK);
    const TensorView rows(nullptr, DType::bf16, {plan.rows, 128}),
        row_weights(nullptr, DType::f32, {plan.rows});
    d.dispatch(ctx, plan, x, weights, false, {.x = rows, .weights = row_weights});
    d.combine(ctx, plan, rows, {}, x);
    // The sorted slots, their weights (rounded up to 256 bytes), and the arrivals.
    EXPECT_EQ(scratch.peak_bytes(), 48 * 128 * 2 + 256 + 96 * 128 * 2);
  });
}

}  // namespace
}  // namespace nereus
