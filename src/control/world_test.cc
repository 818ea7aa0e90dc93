#include "control/world.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "base/error.h"
#include "control/local_world.h"

namespace nereus {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "no error";
}

// On a thread for each rank: of threads through memory, and of control planes.
void on_all(int ranks, milliseconds timeout, const std::function<void(World&)>& work) {
  std::vector<std::thread> threads;
  const LocalWorld local(ranks, timeout);
  for (int r = 0; r < ranks; ++r) threads.emplace_back([&, r] { work(local.rank(r)); });
  for (std::thread& t : threads) t.join();
  threads.clear();

  tcp::Listener listener = tcp::listen_at(0);
  const int port = listener.port;
  const auto run = [&](int rank) {
    ControlPlaneOptions o;
    o.rank = rank;
    o.world_size = ranks;
    o.address = "127.0.0.1";
    o.port = port;
    o.heartbeat = milliseconds(20);
    ControlPlane control(o, rank == 0 ? std::move(listener) : tcp::Listener{});
    work(*world_of(control, timeout));
    control.close();
  };
  for (int r = 0; r < ranks; ++r) threads.emplace_back(run, r);
  for (std::thread& t : threads) t.join();
}

TEST(World, RanksExchangeBytesAndMeet) {
  std::atomic<int> came{0};
  on_all(3, milliseconds(20'000), [&](World& world) {
    EXPECT_EQ(world.size(), 3);
    world.set("of/" + std::to_string(world.rank()),
              std::string(2, static_cast<char>(world.rank())));
    for (int r = 0; r < 3; ++r)
      EXPECT_EQ(world.get("of/" + std::to_string(r), milliseconds(20'000)),
                std::string(2, static_cast<char>(r)));
    for (int round = 1; round <= 3; ++round) {
      ++came;
      world.meet_on_host();
      EXPECT_EQ(came % 3, 0) << "nobody comes again before all have left";
      world.meet_on_host();
    }
    EXPECT_FALSE(world.failure());
  });
}

TEST(World, AKeyThatWasTakenIsFreeAgain) {
  on_all(3, milliseconds(20'000), [&](World& world) {
    for (int round = 0; round < 3; ++round) {
      const auto key = [](int rank) { return "part/" + std::to_string(rank); };
      if (world.rank() == 0) {
        for (int r = 1; r < 3; ++r)
          EXPECT_EQ(world.take(key(r), milliseconds(20'000)), std::to_string(10 * r + round));
        for (int r = 1; r < 3; ++r) world.set("go/" + std::to_string(r), std::to_string(round));
      } else {
        world.set(key(world.rank()), std::to_string(10 * world.rank() + round));
        EXPECT_EQ(world.take("go/" + std::to_string(world.rank()), milliseconds(20'000)),
                  std::to_string(round));
      }
    }
    if (world.rank() == 0) {
      EXPECT_THAT(message_of([&] { world.take("never", milliseconds(20)); }),
                  HasSubstr("rank 0 waited 0.02 s for never, which no rank has set"));
    }
    EXPECT_FALSE(world.failure());
    world.meet_on_host();
  });
}

TEST(World, AMeetingNamesWhoDoesNotComeAndWhatItDoes) {
  on_all(2, milliseconds(20'000), [&](World& world) {
    world.describe_by([&] { return "it sleeps at step " + std::to_string(world.step()); });
    world.set_step(4);
    while (world.activities({1})[0] != "it sleeps at step 4")  // until the others have heard
      std::this_thread::sleep_for(milliseconds(5));
    world.set_timeout(milliseconds(300));
    if (world.rank() == 0) {
      EXPECT_EQ(message_of([&] {
                  world.meet("key", "lunch", {0, 1});
                }),
                "lunch: rank 1 of the world did not come within 0.3 s: it sleeps at step 4");
    }
    while (!world.failure()) std::this_thread::sleep_for(milliseconds(1));
    EXPECT_THAT(message_of([&] { world.check(); }), HasSubstr("lunch: rank 1 of the world"));
    EXPECT_THAT(message_of([&] { world.get("never", milliseconds(20'000)); }),
                HasSubstr("lunch: rank 1"));
    world.describe_by(nullptr);
  });
}

TEST(World, WhatARankFailsWithIsEverybodysAndItsOwnExceptionStays) {
  on_all(2, milliseconds(20'000), [&](World& world) {
    const auto work = [&] {
      if (world.rank() == 1) throw std::runtime_error("the loss is NaN");
      while (!world.failure()) std::this_thread::sleep_for(milliseconds(1));
      throw std::runtime_error("undefined contents");  // follows from the world's end
    };
    const auto nested = [&] { run_as_rank(world, work); };
    EXPECT_EQ(message_of([&] { run_as_rank(world, nested); }),
              world.rank() == 1 ? "the loss is NaN" : failed_text(1, "the loss is NaN"));
    EXPECT_EQ(world.failure(), failed_text(1, "the loss is NaN"));
    EXPECT_EQ(world.fail("more"), failed_text(1, "the loss is NaN"));
  });
}

TEST(World, OneRankAloneWaitsForNobody) {
  const LocalWorld alone(1, milliseconds(1));
  World& world = alone.rank(0);
  world.meet_on_host();
  world.set_step(9);
  EXPECT_EQ(world.step(), 9);
  EXPECT_THAT(message_of([&] { world.get("never", milliseconds(1)); }),
              HasSubstr("rank 0 waited 0.001 s for never, which no rank has set"));
}

}  // namespace
}  // namespace nereus
