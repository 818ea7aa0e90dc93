#include "cli/generate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/subcommand_test.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using testing::HasSubstr;

const test::Subcommand generate("generate", run_generate);

const std::string& model() {
  static const std::string folder = test::source_path("tests/golden/hf_tiny/eps");
  return folder;
}

TEST(GenerateCommand, PrintsIdsAloneOnOneLine) {
  const std::string greedy =
      generate.output({"--checkpoint", model(), "--prompt-ids", "5,9,2", "--max-tokens=5",
                       "--temperature=0", "--ids", "--device=cpu", "--threads=2"});
  EXPECT_THAT(greedy, testing::MatchesRegex("[0-9]+( [0-9]+)*\n"));
  EXPECT_EQ(generate.output({"--checkpoint=" + model(), "--prompt-ids=5,9,2", "--max-tokens=5",
                             "--temperature=0", "--ids", "--device=cpu", "--threads=1"}),
            greedy);
}

TEST(GenerateCommand, PrintsTextByTheTokenizerThatIsNamed) {
  const std::string text =
      generate.output({"--checkpoint", model(), "--prompt", "42", "--tokenizer",
                       test::source_path("tests/golden/cases/tokenizer_digits"), "--max-tokens",
                       "3", "--device", "cpu", "--threads", "2"});
  EXPECT_GT(text.size(), 1u);
  EXPECT_EQ(text.back(), '\n');
}

TEST(GenerateCommand, NamesWrongOptions) {
  const std::vector<std::string> base = {"--checkpoint", model()};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), base.begin(), base.end());
    return generate.refusal(more);
  };
  EXPECT_THAT(generate.refusal({"--prompt-ids=1"}), HasSubstr("--checkpoint is required"));
  EXPECT_THAT(with({}), HasSubstr("neither --prompt nor --prompt-ids is given"));
  EXPECT_THAT(with({"--prompt-ids=1", "--prompt=a"}), HasSubstr("are both given: leave one out"));
  EXPECT_THAT(with({"--prompt-ids=1,x"}), HasSubstr("--prompt-ids"));
  EXPECT_THAT(with({"--prompt-ids=1", "--top-p=0"}),
              HasSubstr("--top-p 0: no token would be left"));
  EXPECT_THAT(with({"--prompt-ids=1", "--top-p=1.5"}), HasSubstr("--top-p"));
  EXPECT_THAT(with({"--prompt-ids=1", "--temperature=-1"}), HasSubstr("--temperature"));
  EXPECT_THAT(with({"--prompt-ids=1", "--max-tokens=0"}), HasSubstr("--max-tokens"));
  EXPECT_THAT(with({"--promt-ids=1"}), HasSubstr("did you mean --prompt-ids?"));
}

}  // namespace
}  // namespace nereus
