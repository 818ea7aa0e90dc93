// Processes with a GPU each, on two GPUs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "base/error.h"
#include "device/cuda_runtime.h"
#include "launch/session.h"
#include "test/child_process.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using std::chrono::milliseconds;
using test::Child;
using test::ChildFunction;
using test::tell;
using test::Tensor;
using testing::AllOf;
using testing::HasSubstr;

using Clock = std::chrono::steady_clock;

int gpus() {
  if constexpr (kHasCuda) return cuda::device_count();
  return 0;
}

// Two groups at once, on a stream each. What is written to standard error is told, since the last
// words may come from a guard.
const ChildFunction reduces("nccl_reduce_for_ever", [] {
  dup2(std::atoi(test::given("NEREUS_TEST_PIPE").c_str()), STDERR_FILENO);
  try {
    run_ranks(read_launch_environment(launch_variables(), {}),
              {.init_timeout = milliseconds(60'000), .device = Device::Kind::cuda},
              [](ThisRank& me) {
                Stream s(me.device, &test::pool()), t(me.device, &test::pool());
                const auto other = me.ranks.split("other", 0, 0);
                Tensor x = Tensor(s.device(), DType::f32, {1 << 20}).fill(0);
                Tensor y = Tensor(s.device(), DType::f32, {1 << 20}).fill(0);
                for (int step = 0;; ++step) {
                  me.world.set_step(std::min(step, 5));
                  me.ranks.all_reduce(s, x);
                  other->all_reduce(t, y);
                  s.synchronize();
                  t.synchronize();
                  if (step == 5) tell("at work");
                }
              });
  } catch (const Error& e) {
    tell(e.what());
    std::_Exit(e.exit_code());
  }
});

TEST(NcclSession, AKilledProcessEndsTheOtherWithTheControlPlanesNote) {
  if (gpus() < 2) GTEST_SKIP() << "two GPUs are needed; there are " << gpus();
  std::vector<Child> ranks = test::start_ranks("nccl_reduce_for_ever", 2);
  for (Child& c : ranks) ASSERT_TRUE(c.said("at work"));
  std::this_thread::sleep_for(milliseconds(1500));  // the step comes with the next beat
  const auto begin = Clock::now();
  ranks[1].kill(SIGKILL);
  EXPECT_THAT(ranks[0].wait(), AllOf(HasSubstr("rank 1 of the world (host "),
                                     HasSubstr(") died at step 5: its connection closed"),
                                     HasSubstr("): it is waiting in all_reduce number ")));
  EXPECT_EQ(ranks[0].status(), 72);
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(3));
}

}  // namespace
}  // namespace nereus
