#include "device/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "test/test_tensor.h"

namespace nereus {
namespace {

// Tests of ops and training run on every device that there is; this says whether a GPU was among
// them.
TEST(Device, AGpuIsAmongTheTestedDevices) {
  if (!kHasCuda) GTEST_SKIP() << "this build has no GPU code (make PRESET=cuda)";
  if (test::devices().size() < 2) GTEST_SKIP() << "there is no GPU here, or no driver for it";
  Stream stream(test::devices()[1]);
  EXPECT_GT(stream.sm_count(), 0);
}

TEST(ThreadPool, RunsEveryTaskOnceWhateverTheNumberOfThreadsAndCallers) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 3; ++caller) {
      callers.emplace_back([&pool] {
        for (int round = 0; round < 200; ++round) {
          std::vector<std::atomic<int>> runs(static_cast<size_t>(round));
          pool.parallel_for(round, [&](int64_t i, Scratch scratch) {
            scratch[0] = std::byte{1};
            ++runs[static_cast<size_t>(i)];
          });
          for (const auto& n : runs) ASSERT_EQ(n, 1);
        }
      });
    }
    for (auto& c : callers) c.join();
  }
}

TEST(ThreadPool, RethrowsATasksExceptionAndServesOn) {
  ThreadPool pool(2);
  EXPECT_THROW(pool.parallel_for(10,
                                 [](int64_t i, Scratch) {
                                   if (i == 3) throw std::runtime_error("task 3");
                                 }),
               std::runtime_error);
  std::atomic<int> ran{0};
  pool.parallel_for(10, [&](int64_t, Scratch) { ++ran; });
  EXPECT_EQ(ran, 10);
}

}  // namespace
}  // namespace nereus
