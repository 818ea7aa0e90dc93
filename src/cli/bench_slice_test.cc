#include "cli/bench_slice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "cli/subcommand_test.h"
#include "device/device.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;

const test::Subcommand bench_slice("slice", run_bench_slice);

TEST(BenchSlice, TrainsEachSettingThatIsWantedAndPrintsARowForIt) {
  const test::TemporaryFolder folder;
  testing::internal::CaptureStdout();
  EXPECT_EQ(bench_slice({"--small", "--steps", "1", "--configurations", "full", "--config",
                         test::source_path("configs/slice1.toml"), "--folder", folder.path()}),
            0);
  const std::string table = testing::internal::GetCapturedStdout();
  EXPECT_THAT(table, HasSubstr("median of 1 steps after 5"));
  EXPECT_THAT(table, ContainsRegex("full  +[0-9,]+ +[0-9.]+ +[0-9.]+ +[0-9.]+ +N/A"));
  EXPECT_THAT(table,
              ContainsRegex("full, cuDNN, unordered  +[0-9,]+ +[0-9.]+ +[0-9.]+ +[0-9.]+ +N/A"));
  EXPECT_THAT(table, Not(HasSubstr("none")));
  EXPECT_TRUE(std::filesystem::exists(folder.file("full/metrics.jsonl")));
}

TEST(BenchSlice, ASettingThatCannotRunIsARowOfItsOwn) {
  const test::TemporaryFolder folder;
  testing::internal::CaptureStdout();
  EXPECT_EQ(bench_slice({"--small", "--configurations", "selective", "--config",
                         folder.file("missing.toml"), "--folder", folder.path()}),
            2);
  EXPECT_THAT(testing::internal::GetCapturedStdout(),
              ContainsRegex("selective +did not run: .*missing.toml"));
}

TEST(BenchSlice, NamesItsSettingsAndWhatItNeeds) {
  EXPECT_THAT(bench_slice.refusal({"--configurations", "sometimes"}),
              HasSubstr("no configuration's name contains \"sometimes\". There are:\n  none\n"));
  if (!kHasCuda) {
    EXPECT_THAT(bench_slice.refusal({}), HasSubstr("needs a GPU of 80 GB"));
  }
}

}  // namespace
}  // namespace nereus
