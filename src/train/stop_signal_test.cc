#include "train/stop_signal.h"

#include <gtest/gtest.h>

#include <csignal>
#include <optional>

namespace nereus {
namespace {

TEST(StopSignal, IsRememberedUntilTheLastOfTheRanksIsDone) {
  std::optional<StopSignal> first(std::in_place), second(std::in_place);
  EXPECT_EQ(StopSignal::received(), 0);
  first.reset();
  std::raise(SIGTERM);
  EXPECT_EQ(StopSignal::received(), SIGTERM);
  first.emplace();
  EXPECT_EQ(StopSignal::received(), SIGTERM) << "one that comes late hears it too";
  first.reset();
  second.reset();
  EXPECT_EQ(std::signal(SIGTERM, SIG_DFL), SIG_IGN);
  EXPECT_EQ(std::signal(SIGINT, SIG_DFL), SIG_DFL);
  EXPECT_EQ(std::signal(SIGUSR1, SIG_DFL), SIG_IGN);
  const StopSignal next;  // of the next run in this process
  EXPECT_EQ(StopSignal::received(), 0);
}

}  // namespace
}  // namespace nereus
