#include "control/control_server.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>

#include "control/control_plane.h"
#include "test/child_process.h"

namespace nereus {
namespace {

using std::chrono::milliseconds;

using Clock = std::chrono::steady_clock;

ControlPlaneOptions options_of(int rank, int port) {
  ControlPlaneOptions o;
  o.rank = rank;
  o.world_size = 2;
  o.address = "127.0.0.1";
  o.port = port;
  o.rendezvous_timeout = milliseconds(1000);
  return o;
}

// Rank 0's own hello never comes, so that the other's is the first for certain.
TEST(ControlServer, EndsAWorldWithWhatRankZeroMetEarlyThoughAnotherRankComesFirst) {
  tcp::Listener listener = tcp::listen_at(0);
  ControlPlaneOptions zero = options_of(0, listener.port), one = options_of(1, listener.port);
  zero.failed.emplace(Fault::kDevice, "no GPU is here");
  one.version = "1.0";  // who fails before it has read the settings knows neither
  one.configuration = "model.name=tiny\n";
  auto server = std::make_unique<ControlServer>(zero, std::move(listener));
  std::string end = "met";
  try {
    const ControlPlane control(one);
  } catch (const Error& e) {
    end = fmt::format("{}: {}", e.exit_code(), e.what());
  }
  EXPECT_EQ(end, "71: no GPU is here");
  const auto begin = Clock::now();
  server.reset();
  const Clock::duration took = Clock::now() - begin;
  EXPECT_LT(took, test::soon(milliseconds(3000))) << "no longer than ranks are waited for";
}

}  // namespace
}  // namespace nereus
