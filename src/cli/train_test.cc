#include "cli/train.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "base/error.h"

namespace nereus {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

// What `nereus train ARGUMENTS` prints.
std::string train(std::vector<std::string> args) {
  args.insert(args.begin(), "train");
  std::vector<char*> argv;
  argv.reserve(args.size());
  for (std::string& arg : args) argv.push_back(arg.data());
  testing::internal::CaptureStdout();
  const auto printed = [] { return testing::internal::GetCapturedStdout(); };
  try {
    EXPECT_EQ(run_train(static_cast<int>(argv.size()), argv.data()), 0);
  } catch (...) {
    printed();
    throw;
  }
  return printed();
}

// RANK alone, as a shell may have it from an earlier run by hand.
TEST(Train, WhatDescribesNeedsNoLauncher) {
  ASSERT_EQ(setenv("RANK", "1", 1), 0);
  for (const char* help : {"--help", "-h"})
    EXPECT_THAT(train({help}), HasSubstr("Usage: nereus train [CONFIG.toml]"));
  EXPECT_THAT(train({"--config-reference"}), HasSubstr("| `seq_len` |"));
  EXPECT_THAT(train({"--dry-run", "--model.flavor=debugmodel", "--world", "2"}),
              HasSubstr("dp_shard 2"));
  EXPECT_THAT([] { train({"--print-config"}); },
              ThrowsMessage<Error>(HasSubstr("RANK=1 is set in the environment, and WORLD_SIZE")));
  unsetenv("RANK");
}

}  // namespace
}  // namespace nereus
