#include "cli/train.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "cli/subcommand_test.h"

namespace nereus {
namespace {

using testing::HasSubstr;

const test::Subcommand train("train", run_train);

// RANK alone, as a shell may have it from an earlier run by hand.
TEST(Train, WhatDescribesNeedsNoLauncher) {
  ASSERT_EQ(setenv("RANK", "1", 1), 0);
  for (const char* help : {"--help", "-h"})
    EXPECT_THAT(train.output({help}), HasSubstr("Usage: nereus train [CONFIG.toml]"));
  EXPECT_THAT(train.output({"--config-reference"}), HasSubstr("| `seq_len` |"));
  EXPECT_THAT(train.output({"--dry-run", "--model.flavor=debugmodel", "--world", "2"}),
              HasSubstr("dp_shard 2"));
  EXPECT_THAT(train.refusal({"--print-config"}),
              HasSubstr("RANK=1 is set in the environment, and WORLD_SIZE"));
  unsetenv("RANK");
}

}  // namespace
}  // namespace nereus
