#include "comm/thread_ranks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

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
using testing::HasSubstr;

class ThreadRanksTest : public testing::Test {
 protected:
  void SetUp() override {
    if (test::ranks_are_processes()) GTEST_SKIP() << "ranks are processes here";
  }
};

std::string outcome(int ranks, milliseconds timeout,
                    const std::function<void(Communicator&, Stream&)>& work) {
  try {
    run_thread_ranks(ranks, {.timeout = timeout}, [&](Communicator& c) {
      Stream stream(Device::cpu(), &test::pool());
      work(c, stream);
    });
  } catch (const std::exception& e) {
    return e.what();
  }
  return "no error";
}

TEST_F(ThreadRanksTest, TheFirstExceptionOfARankIsThrownAgain) {
  class Mine : public std::runtime_error {
   public:
    using std::runtime_error::runtime_error;
  };
  const auto work = [](Communicator& c) {
    Stream stream(Device::cpu(), &test::pool());
    if (c.rank() == 1) throw Mine("of rank 1");
    c.barrier(stream);
  };
  EXPECT_THROW(run_thread_ranks(3, {}, work), Mine);
  const auto odd = [](Communicator& c) {
    Stream stream(Device::cpu(), &test::pool());
    if (c.rank() == 2) throw 7;  // NOLINT
    c.barrier(stream);
  };
  EXPECT_THROW(run_thread_ranks(3, {}, odd), int);
}

TEST_F(ThreadRanksTest, ARankThatHasEndedIsNotWaitedFor) {
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(outcome(3, milliseconds(60000),
                    [](Communicator& c, Stream& s) {
                      c.barrier(s);
                      if (c.rank() != 1) c.barrier(s);
                    }),
            "barrier number 2 of group world: 1 of its 3 ranks will not come\n"
            "  rank 1: it ended after barrier number 1 of group world");
  EXPECT_EQ(outcome(2, milliseconds(60000),
                    [](Communicator& c, Stream& s) {
                      Tensor x(Device::cpu(), DType::f32, {8});
                      if (c.rank() == 0) c.recv(s, x, 1);
                    }),
            "recv number 1 of f32 [8] from rank 1 of group world: 1 of its 2 ranks will not come\n"
            "  rank 1: it ended");
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
}

TEST_F(ThreadRanksTest, AMessageOfARankThatHasEndedStillArrives) {
  EXPECT_EQ(outcome(2, milliseconds(60000),
                    [](Communicator& c, Stream& s) {
                      Tensor x = Tensor(Device::cpu(), DType::f32, {8}).fill(c.rank());
                      if (c.rank() == 1) return c.send(s, x, 0);
                      std::this_thread::sleep_for(milliseconds(50));
                      c.recv(s, x, 1);
                      EXPECT_EQ(x[7], 1);
                    }),
            "no error");
}

TEST_F(ThreadRanksTest, ATimeOutTellsWhatTheMissingRankIsDoing) {
  const auto work = [](Communicator& c, World& world) {
    Stream s(Device::cpu(), &test::pool());
    const auto pair = c.split("pair", c.rank() / 2, 0);
    Tensor x(Device::cpu(), DType::f32, {8});
    if (c.rank() == 3) {
      // The others' time runs, and is over first.
      const auto waits = [&](int r) {
        return world.activities({r})[0].starts_with("it is waiting in all_reduce");
      };
      while (!waits(0) || !waits(1)) std::this_thread::sleep_for(milliseconds(1));
      std::this_thread::sleep_for(milliseconds(50));  // they have looked at the clock
      world.set_timeout(std::chrono::seconds(60));
      pair->recv(s, x, 0);
    }
    while (c.rank() == 2 && !world.failure()) std::this_thread::sleep_for(milliseconds(1));
    c.all_reduce(s, x);
  };
  std::string message = "no error";
  try {
    run_thread_world(4, {.timeout = milliseconds(1500)}, work);
  } catch (const Error& e) {
    message = e.what();
  }
  EXPECT_EQ(message,
            "all_reduce number 3 (sum) of f32 [8] of group world: 2 of its 4 ranks did not come "
            "within 1.5 s\n"
            "  rank 2: it has done split number 2 of group world and called nothing since\n"
            "  rank 3: it is waiting in recv number 1 of f32 [8] from rank 0 of group pair");
}

TEST_F(ThreadRanksTest, FiveHundredAndTwelveRanksReduceAKibibyte) {
  const auto peak_kib = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
  };
  const long before = peak_kib();
  constexpr int kRanks = 512, kRounds = 5;
  std::atomic<int64_t> us{0};
  const auto begin = std::chrono::steady_clock::now();
  run_thread_ranks(kRanks, {.timeout = std::chrono::seconds(120)}, [&](Communicator& c) {
    Stream stream(Device::cpu(), &test::pool());
    std::vector<float> data(256);
    const TensorView x(reinterpret_cast<std::byte*>(data.data()), DType::f32, {256});
    c.barrier(stream);
    const auto start = std::chrono::steady_clock::now();
    for (int round = 0; round < kRounds; ++round) {
      std::fill(data.begin(), data.end(), 1.0f);
      c.all_reduce(stream, x);
      ASSERT_EQ(data[255], kRanks);
    }
    c.barrier(stream);
    if (c.rank() == 0)
      us = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() -
                                                                 start)
               .count();
    const auto column = c.split("column", c.rank() % 8, 0);
    column->all_reduce(stream, x);
    ASSERT_EQ(data[0], kRanks * 64);
  });
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  RecordProperty("all_reduce_ms", std::to_string(static_cast<double>(us) / 1e3 / kRounds));
  std::printf("512 ranks: %.1f ms an all_reduce of 1 KiB, %.2f s in all, %.0f MiB more memory\n",
              static_cast<double>(us) / 1e3 / kRounds, seconds,
              static_cast<double>(peak_kib() - before) / 1024);
  EXPECT_LT(seconds, 60);
}

}  // namespace
}  // namespace nereus
