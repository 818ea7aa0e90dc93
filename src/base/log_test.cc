#include "base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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

TEST(Suggest, FindsTheNearestNameAndNothingWhenAllAreFar) {
  const std::vector<std::string> names = {"steps", "seq_len", "local_batch_size"};
  EXPECT_EQ(nearest("setps", names), "steps");
  EXPECT_EQ(nearest("seqlen", names), "seq_len");
  EXPECT_EQ(nearest("optimizer_state", names), "");
}

}  // namespace
}  // namespace nereus
