#include "base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "base/log_listener.h"
#include "base/log_output.h"
#include "base/suggest.h"

namespace nereus {
namespace {

TEST(Log, WritesTheLineThatReadersOfTorchTitansLogsExpect) {
  const log::Capture capture;
  log::info("step: {:2}", 7);
  EXPECT_THAT(
      capture.text(),
      testing::MatchesRegex("\\[titan\\] [0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2},"
                            "[0-9]{3} - root - INFO - step:  7\n"));
}

TEST(Log, HasPlainLinesForPeopleAtATerminal) {
  const log::PlainLines plain;
  testing::internal::CaptureStderr();
  log::warning("retry {} of {} in {} s", 1, 3, 2);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "WARNING: retry 1 of 3 in 2 s\n");
}

TEST(Listener, GetsTheLinesOfItsRankWhetherOrNotTheyAreSpoken) {
  const log::Capture capture;
  std::vector<std::string> heard;
  log::set_rank(3, false);
  {
    const log::Listener listener([&](bool warning, std::string_view message) {
      heard.push_back(std::string(message) + (warning ? "!" : ""));
    });
    log::info("step {}", 1);
    log::warning("late");
    std::thread([&] {
      log::set_rank(4, true);
      log::info("of another rank");
    }).join();
  }
  log::info("afterwards");
  log::set_rank(-1, true);
  EXPECT_THAT(heard, testing::ElementsAre("step 1", "late!"));
  EXPECT_THAT(capture.text(), testing::Not(testing::HasSubstr("late")));
}

TEST(Suggest, FindsTheNearestNameAndNothingWhenAllAreFar) {
  const std::vector<std::string> names = {"steps", "seq_len", "local_batch_size"};
  EXPECT_EQ(nearest("setps", names), "steps");
  EXPECT_EQ(nearest("seqlen", names), "seq_len");
  EXPECT_EQ(nearest("optimizer_state", names), "");
}

}  // namespace
}  // namespace nereus
