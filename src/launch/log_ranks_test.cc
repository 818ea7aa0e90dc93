#include "launch/log_ranks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace nereus {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;
using testing::ThrowsMessage;

TEST(LogRanks, AreRanksSeparatedByCommas) {
  EXPECT_THAT(log_ranks(""), ElementsAre(0));
  EXPECT_THAT(log_ranks("8,0"), ElementsAre(0, 8));
  for (const char* wrong : {"x", "0,,1", "-1", "99999999", ","})
    EXPECT_THAT([&] { log_ranks(wrong); },
                ThrowsMessage<Error>(HasSubstr("LOG_RANK = \"" + std::string(wrong) + "\"")));
}

TEST(LogRanks, BeyondTheRunsAreRefused) {
  EXPECT_NO_THROW(check_log_ranks({0, 3}, 4));
  EXPECT_THAT(
      [] {
        check_log_ranks({0, 448}, 256);
      },
      ThrowsMessage<Error>(
          StartsWith("LOG_RANK names rank 448, and the run has ranks 0 to 255: ")));
}

}  // namespace
}  // namespace nereus
