// What NCCL's ranks do beyond the shared suite, on two GPUs.
#include "comm/nccl_ranks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <thread>

#include "base/error.h"
#include "comm/communicator_test.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using std::chrono::milliseconds;
using test::Tensor;
using testing::AllOf;
using testing::HasSubstr;

using Clock = std::chrono::steady_clock;

class NcclRanksTest : public testing::Test {
 protected:
  void SetUp() override {
    if (test::ranks_are_processes()) GTEST_SKIP() << "starts its own ranks";
    if (test::nccl_ranks().most() < 2)
      GTEST_SKIP() << "two GPUs are needed; there are " << test::nccl_ranks().most();
  }
};

std::string outcome(milliseconds timeout,
                    const std::function<void(Communicator&, Stream&, World&)>& work) {
  try {
    test::nccl_ranks().run(2, timeout, [&](Communicator& c, World& world) {
      Stream stream(Device::cuda(c.rank()), &test::pool());
      work(c, stream, world);
      stream.synchronize();
    });
  } catch (const std::exception& e) {
    return e.what();
  }
  return "no error";
}

TEST_F(NcclRanksTest, BothMaySendManyMessagesBeforeEitherReceives) {
  EXPECT_EQ(
      outcome(milliseconds(60'000),
              [](Communicator& c, Stream& s, World&) {
                const int other = 1 - c.rank();
                constexpr int64_t kCount = 4 << 20;
                Tensor out(s.device(), DType::f32, {kCount}), in(s.device(), DType::f32, {kCount});
                for (int round = 0; round < 5; ++round) {
                  for (size_t m = 0; m < kMostSends; ++m) {
                    out.fill(static_cast<double>(100 * c.rank() + round) +
                             0.1 * static_cast<double>(m));
                    c.send(s, out, other);
                    s.synchronize();
                  }
                  for (size_t m = 0; m < kMostSends; ++m) {
                    c.recv(s, in, other);
                    s.synchronize();
                    const auto expected = static_cast<float>(
                        static_cast<double>(100 * other + round) + 0.1 * static_cast<double>(m));
                    ASSERT_EQ(in[0], expected);
                    ASSERT_EQ(in[kCount - 1], expected);
                  }
                }
              }),
      "no error");
}

TEST_F(NcclRanksTest, ATimeOutTellsWhatTheOtherRankIsIn) {
  const auto begin = Clock::now();
  const std::string message =
      outcome(milliseconds(60'000), [](Communicator& c, Stream& s, World& world) {
        Tensor x = Tensor(s.device(), DType::f32, {8}).fill(1);
        world.set_step(3);
        c.all_reduce(s, x);
        s.synchronize();
        world.set_timeout(milliseconds(500));
        if (c.rank() == 0) c.all_reduce(s, x);  // the other does not come
        std::this_thread::sleep_for(milliseconds(2000));
      });
  EXPECT_THAT(
      message,
      AllOf(HasSubstr("all_reduce number 2 (sum) of f32 [8] of group world, step 3: 1 of its "
                      "2 ranks did not come within 0.5 s"),
            HasSubstr("rank 1: it has done all_reduce number 1 (sum) of f32 [8] of group "
                      "world at step 3 and called nothing since")));
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(30));
}

TEST_F(NcclRanksTest, ARankThatFailsEndsTheOtherThatWaitsForItsGpu) {
  std::atomic<bool> told{false};
  const auto begin = Clock::now();
  const std::string message =
      outcome(milliseconds(60'000), [&](Communicator& c, Stream& s, World&) {
        Tensor x = Tensor(s.device(), DType::f32, {1 << 20}).fill(1);
        c.all_reduce(s, x);
        s.synchronize();
        if (c.rank() == 1) throw Error(Fault::kNumeric, "the loss is NaN");
        c.all_reduce(s, x);
        s.synchronize();  // ends, because the watcher aborts what is enqueued
        try {
          c.all_reduce(s, x);
        } catch (const Error& e) {
          told = std::string(e.what()) ==
                 "rank 1 of the world failed, which ends the others: the loss is NaN";
          throw;
        }
      });
  EXPECT_THAT(message, HasSubstr("the loss is NaN"));
  EXPECT_TRUE(told);
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(30));
}

// NCCL frees memory when it aborts a group, and CUDA waits with that until the GPU is idle.
TEST_F(NcclRanksTest, ARankThatFailsEndsTheOtherThatWaitsInSeveralGroupsAtOnce) {
  const auto begin = Clock::now();
  const std::string message =
      outcome(milliseconds(60'000), [&](Communicator& c, Stream& s, World&) {
        Stream second(s.device(), &test::pool()), third(s.device(), &test::pool());
        const auto a = c.split("a", 0, 0), b = c.split("b", 0, 0);
        const auto window = c.shares_memory() ? a->window(s, 1 << 20) : nullptr;
        Tensor x = Tensor(s.device(), DType::f32, {1 << 20}).fill(1);
        Tensor y = Tensor(s.device(), DType::f32, {1 << 20}).fill(1);
        c.all_reduce(s, x);
        b->all_reduce(second, y);
        if (window) window->meet(third);
        for (Stream* stream : {&s, &second, &third}) stream->synchronize();
        if (c.rank() == 1) throw Error(Fault::kNumeric, "the loss is NaN");
        c.all_reduce(s, x);
        b->all_reduce(second, y);
        if (window) window->meet(third);
        for (Stream* stream : {&s, &second, &third}) stream->synchronize();
      });
  EXPECT_THAT(message, HasSubstr("the loss is NaN"));
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(30));
}

TEST_F(NcclRanksTest, CallsReturnBeforeTheGpuHasDoneThem) {
  EXPECT_EQ(outcome(milliseconds(60'000),
                    [](Communicator& c, Stream& s, World&) {
                      Tensor x = Tensor(s.device(), DType::f32, {64 << 20}).fill(1);
                      c.all_reduce(s, x);  // connects
                      s.synchronize();
                      c.barrier(s);
                      const auto begin = Clock::now();
                      for (int i = 0; i < 50; ++i) c.all_reduce(s, x, ReduceOp::max);
                      const auto enqueued = Clock::now() - begin;
                      s.synchronize();
                      const auto done = Clock::now() - begin;
                      EXPECT_LT(enqueued * 2, done);
                      if (c.rank() == 0)
                        std::printf(
                            "50 all_reduces of 256 MiB: enqueued in %.2f ms, done in %.1f ms\n",
                            std::chrono::duration<double>(enqueued).count() * 1e3,
                            std::chrono::duration<double>(done).count() * 1e3);
                    }),
            "no error");
}

TEST_F(NcclRanksTest, TensorsOfAnotherDeviceAreRefused) {
  EXPECT_THAT(outcome(milliseconds(60'000),
                      [](Communicator& c, Stream&, World&) {
                        Stream host(Device::cpu(), &test::pool());
                        Tensor x = Tensor(Device::cpu(), DType::f32, {8}).fill(1);
                        c.all_reduce(host, x);
                      }),
              HasSubstr("the stream is of the CPU"));
}

}  // namespace
}  // namespace nereus
