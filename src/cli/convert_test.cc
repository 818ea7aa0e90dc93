#include "cli/convert.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "cli/progress_bar.h"
#include "cli/subcommand_test.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using testing::HasSubstr;

const test::Subcommand convert("convert", run_convert);

std::string model() { return test::source_path("tests/golden/hf_tiny/v3"); }

TEST(ConvertCommand, SaysWhatItWritesAndHowFarItIs) {
  const test::TemporaryFolder f;
  const std::vector<std::string> args = {"--from",  model(),    "--to",         f.file("to"),
                                         "--dtype", "bfloat16", "--shard-size", "100kB"};
  std::vector<std::string> dry = args;
  dry.push_back("--dry-run");
  EXPECT_THAT(convert.output(dry), HasSubstr(" tensors, the largest of "));
  EXPECT_FALSE(std::filesystem::exists(f.file("to")));
  const std::string out = convert.output(args);
  EXPECT_THAT(out, HasSubstr("[##############################] 100 %"));
  EXPECT_THAT(out, HasSubstr(f.file("to") + " is complete: "));
  EXPECT_TRUE(std::filesystem::exists(f.file("to/model.safetensors.index.json")));
}

TEST(ConvertCommand, NamesWhatIsWrong) {
  const test::TemporaryFolder f;
  EXPECT_THAT(convert.refusal({"--to", f.file("to")}), HasSubstr("--from is required"));
  EXPECT_THAT(convert.refusal({"--from", model()}), HasSubstr("--to is required"));
  const std::vector<std::string> base = {"--from", model(), "--to", f.file("to")};
  const auto with = [&](const std::string& more) {
    std::vector<std::string> all = base;
    all.push_back(more);
    return convert.refusal(all);
  };
  EXPECT_THAT(with("--dtype=int8"), HasSubstr("--dtype"));
  EXPECT_THAT(with("--format=gguf"), HasSubstr("--format"));
  EXPECT_THAT(with("--shard-size=5parsec"), HasSubstr("--shard-size"));
  EXPECT_THAT(with("--shard-size=0"), HasSubstr("--shard-size 0: it must be above 0"));
  EXPECT_THAT(with("--shardsize=1"), HasSubstr("did you mean --shard-size?"));
  EXPECT_FALSE(std::filesystem::exists(f.file("to")));
}

TEST(ProgressBar, SaysRateAndTimeLeft) {
  EXPECT_EQ(progress_text(0, 30'000'000'000, 0, 1),
            "[------------------------------]   0 %   0 bytes of 30.0 GB");
  EXPECT_EQ(progress_text(15'000'000'000, 30'000'000'000, 5'000'000'000, 10),
            "[###############---------------]  50 %   15.0 GB of 30.0 GB, 1.0 GB/s, 0:15 left")
      << "the rate is of what was moved, not of what was found";
  EXPECT_EQ(progress_text(1'000'000, 8'000'000'000, 0, 1),
            "[------------------------------]   0 %   1.0 MB of 8.0 GB, 1.0 MB/s, 2:13:19 left");
  EXPECT_EQ(progress_text(100, 100, 0, 65),
            "[##############################] 100 %   100 bytes of 100 bytes, 1 bytes/s, 1:05");
}

}  // namespace
}  // namespace nereus
