#include "comm/socket_ranks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <thread>

#include "base/error.h"
#include "comm/communicator_test.h"
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

void as_rank(milliseconds timeout,
             const std::function<void(Communicator&, Stream&, World&)>& work) {
  const test::ChildRank r = test::this_child_rank();
  ControlPlaneOptions o;
  o.rank = r.rank;
  o.world_size = r.world_size;
  o.address = r.address;
  o.port = r.port;
  o.heartbeat = milliseconds(100);
  Stream stream(Device::cpu(), &test::pool());
  ControlPlane control(o);
  try {
    const auto world = world_of(control, timeout);
    work(*socket_ranks(control, *world), stream, *world);
  } catch (const Error& error) {
    return tell(error.what());
  }
  control.close();
  tell("done");
}

const ChildFunction reduces("reduce_for_ever", [] {
  as_rank(milliseconds(60'000), [](Communicator& c, Stream& s, World& world) {
    const auto pair = c.split("pair", c.rank() / 2, 0);
    Tensor x = Tensor(Device::cpu(), DType::f32, {50'000}).fill(1);
    for (int step = 0;; ++step) {
      world.set_step(step < 5 ? step : 5);
      c.all_reduce(s, x);
      pair->all_reduce(s, x, ReduceOp::max);
      x.fill(1);
      if (step == 5) tell("at work");
    }
  });
});

const ChildFunction ends_early("end_early", [] {
  as_rank(milliseconds(60'000), [](Communicator& c, Stream& s, World&) {
    Tensor x = Tensor(Device::cpu(), DType::f32, {300'000}).fill(3);
    c.barrier(s);
    if (c.rank() == 1) c.send(s, x, 0);  // arrives, though the sender is gone when it is read
    if (c.rank() == 1) return;
    std::this_thread::sleep_for(milliseconds(100));
    c.recv(s, x, 1);
    tell(x[299'999] == 3 ? "received" : "wrong");
    c.recv(s, x, 1);
  });
});

const ChildFunction times_out("time_out", [] {
  as_rank(milliseconds(2000), [](Communicator& c, Stream& s, World& world) {
    const auto pair = c.split("pair", c.rank() / 2, 0);
    world.set_step(7);
    Tensor x(Device::cpu(), DType::f32, {8});
    c.barrier(s);
    if (c.rank() == 3) {
      world.set_timeout(milliseconds(60'000));  // the others' time is over first
      pair->recv(s, x, 0);
    }
    while (c.rank() == 2 && !world.failure()) std::this_thread::sleep_for(milliseconds(5));
    c.all_reduce(s, x);
  });
});

class SocketRanksTest : public testing::Test {
 protected:
  void SetUp() override {
    if (test::ranks_are_processes()) GTEST_SKIP() << "starts its own processes";
  }
};

TEST_F(SocketRanksTest, FourProcessesPassWhatEveryCommunicatorMust) {
  std::vector<Child> ranks =
      test::start_ranks("", 4, {{"NEREUS_TEST_SOCKETS", "1"}}, "Ranks/CommunicatorTest.*");
  for (Child& c : ranks) {
    const std::string text = c.wait();
    EXPECT_EQ(c.status(), 0) << text;
    EXPECT_THAT(text, HasSubstr("[  PASSED  ]"));
  }
}

TEST_F(SocketRanksTest, AKilledRankEndsTheOthersWithTheControlPlanesNote) {
  for (const size_t killed : {size_t{2}, size_t{0}}) {
    std::vector<Child> ranks = test::start_ranks("reduce_for_ever", 4);
    for (Child& c : ranks) ASSERT_TRUE(c.said("at work"));
    std::this_thread::sleep_for(milliseconds(300));
    const auto begin = Clock::now();
    ranks[killed].kill(SIGKILL);
    for (size_t r = 0; r < ranks.size(); ++r) {
      if (r == killed) continue;
      EXPECT_THAT(ranks[r].wait(),
                  AllOf(HasSubstr("\nrank " + std::to_string(killed) + " of the world (host "),
                        HasSubstr(") died at step 5: its connection closed without a word")))
          << r;
    }
    const Clock::duration took = Clock::now() - begin;
    EXPECT_LT(took, test::soon(milliseconds(3000)));
  }
}

TEST_F(SocketRanksTest, AMessageOfARankThatHasEndedArrivesAndNoOtherIsWaitedFor) {
  std::vector<Child> ranks = test::start_ranks("end_early", 2);
  EXPECT_EQ(ranks[0].wait(),
            "received\nrecv number 2 of f32 [300000] from rank 1 of group world: 1 of its 2 ranks "
            "will not come\n  rank 1: it ended\n");
  EXPECT_EQ(ranks[1].wait(), "done\n");
}

TEST_F(SocketRanksTest, ATimeOutTellsWhatTheMissingRanksAreDoing) {
  std::vector<Child> ranks = test::start_ranks("time_out", 4);
  for (Child& c : ranks)
    EXPECT_EQ(c.wait(),
              "all_reduce number 3 (sum) of f32 [8] of group world, step 7: 2 of its 4 ranks did "
              "not come within 2 s\n"
              "  rank 2: it has done barrier number 2 of group world at step 7 and called nothing "
              "since\n"
              "  rank 3: it is waiting in recv number 1 of f32 [8] from rank 0 of group pair at "
              "step 7\n");
}

}  // namespace
}  // namespace nereus
