#include "cli/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <tuple>

#include "cli/subcommand_test.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using testing::HasSubstr;

const test::Subcommand plan("plan", run_plan);

TEST(Plan, DrawsAScheduleAsTextAndAsAPicture) {
  const test::TemporaryFolder folder;
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  EXPECT_EQ(plan({"--schedule", "Interleaved1F1B", "--pp", "4", "--microbatches", "4", "--forward",
                  "2", "--svg", folder.file("s.svg")}),
            0);
  const std::string out = testing::internal::GetCapturedStdout();
  EXPECT_THAT(out,
              HasSubstr("Interleaved1F1B: 4 ranks, 8 stages, 4 microbatches; a microbatch on a "
                        "rank: forward 2, dgrad 1, wgrad 1"));
  EXPECT_THAT(out, HasSubstr("bubble 27.3 %"));
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              HasSubstr("warning: Number of microbatches (4) is less than the total number of "
                        "stages (8)"));
  EXPECT_THAT(test::read_file(folder.file("s.svg")), testing::StartsWith("<svg "));
  EXPECT_FALSE(std::filesystem::exists(folder.file("s.svg.partial")));
}

TEST(Plan, TheIdleSharesThatTheRecipesPageTellsAreItsOwn) {
  const char* source = std::getenv("NEREUS_SOURCE_DIR");
  const std::string page = test::read_file(std::string(source ? source : ".") + "/docs/recipe.md");
  for (const auto& [schedule, exact, rounded] :
       {std::tuple{"1F1B", "30.4", "30"}, std::tuple{"Interleaved1F1B", "17.9", "18"}}) {
    testing::internal::CaptureStdout();
    EXPECT_EQ(plan({"--schedule", schedule, "--pp", "8", "--microbatches", "16"}), 0);
    EXPECT_THAT(testing::internal::GetCapturedStdout(),
                HasSubstr(std::string("bubble ") + exact + " %"));
    EXPECT_THAT(page, HasSubstr(std::string(rounded) + " % of " + schedule + "'s"));
  }
}

TEST(Plan, WrongInputIsOneMessageAndExitCodeTwo) {
  EXPECT_THAT(plan.refusal({"--schedule", "1F1B", "--microbatches", "4"}),
              HasSubstr("--pp is required"));
  EXPECT_THAT(plan.refusal({"--schedule", "1F1B", "--pp", "4"}),
              HasSubstr("--microbatches M is needed"));
  EXPECT_THAT(plan.refusal({"--pp", "4"}), HasSubstr("--schedule NAME or --csv FILE is needed"));
  EXPECT_THAT(plan.refusal({"--schedule", "1F1B", "--pp", "0", "--microbatches", "4"}),
              HasSubstr("--pp: Value 0 not in range"));
  EXPECT_THAT(plan.refusal({"--schedul", "1F1B", "--pp", "4"}),
              HasSubstr("did you mean --schedule?"));
  EXPECT_THAT(plan.refusal({"--schedule", "DualPipeV", "--pp", "4", "--microbatches", "4"}),
              HasSubstr("DualPipeV requires at least as many microbatches as stages"));
  testing::internal::CaptureStdout();
  EXPECT_THAT(plan.refusal({"--schedule", "1F1B", "--pp", "2", "--microbatches", "4", "--svg",
                            "/no/such/folder/x.svg"}),
              HasSubstr("--svg /no/such/folder/x.svg: cannot be written"));
  testing::internal::GetCapturedStdout();
}

}  // namespace
}  // namespace nereus
