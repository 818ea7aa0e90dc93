#include "plan/pipeline_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using testing::HasSubstr;

std::string refusal(const PipelinePlanOptions& o) {
  try {
    plan_pipeline(o);
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::kConfig);
    return e.what();
  }
  return "no error";
}

size_t count(const std::string& text, const std::string& what) {
  size_t n = 0;
  for (size_t at = 0; (at = text.find(what, at)) != text.npos; at += what.size()) ++n;
  return n;
}

TEST(PipelinePlan, DrawsEveryActionWithItsMicrobatch) {
  const PipelinePlanOptions o{.schedule = "1f1b", .ranks = 2, .microbatches = 3};
  EXPECT_EQ(text_of(plan_pipeline(o), o, 120),
            "1F1B: 2 ranks, 2 stages, 3 microbatches; a microbatch on a rank: forward 1, dgrad 1, "
            "wgrad 1\n"
            "\n"
            "rank 0  F0 F1 .  .  B0    F2 B1    .  B2\n"
            "rank 1  .  F0 B0    F1 B1    F2 B2    .  .\n"
            "\n"
            "F forward, B backward (I dgrad alone, W wgrad alone), X forward and backward "
            "overlapped, . idle\n"
            "\n"
            "rank      busy     idle  activations held until  receiving\n"
            "                              dgrad       wgrad      edges\n"
            "   0         9   25.0 %           2           2          2\n"
            "   1         9   25.0 %           1           1          1\n"
            "\n"
            "step 12, bubble 25.0 %, peak activations 2 microbatches of a rank's blocks\n");
}

TEST(PipelinePlan, LongSchedulesAreDrawnByColumnsOfTime) {
  const PipelinePlanOptions o{
      .schedule = "ZBVZeroBubble", .ranks = 2, .microbatches = 100, .blocks = 7};
  const std::string text = text_of(plan_pipeline(o), o, 60);
  EXPECT_THAT(text, HasSubstr("\nrank 0  wFiWFi"));
  EXPECT_THAT(text, HasSubstr("5.01 a column. F forward"));
  EXPECT_THAT(text, HasSubstr("  embedding 0-1 | 6 head\n"));
  EXPECT_THAT(text, HasSubstr("  2-3 | 4-5\n"));
}

TEST(PipelinePlan, CostsAreOfARanksBlocksSoThatSchedulesCompare) {
  const auto step = [](const char* name) {
    return plan_pipeline({.schedule = name,
                          .ranks = 4,
                          .microbatches = 8,
                          .costs = {.forward = 2, .dgrad = 2, .wgrad = 2}})
        .simulation.makespan;
  };
  EXPECT_DOUBLE_EQ(step("1F1B"), 6 * (8 + 3));
  EXPECT_DOUBLE_EQ(step("Interleaved1F1B"), 6 * (8 + 1.5));
  EXPECT_DOUBLE_EQ(step("ZBVZeroBubble"), 6 * 8 + 3);
}

TEST(PipelinePlan, TheSvgHasABarForEveryActionAndTheFigures) {
  const PipelinePlanOptions o{.schedule = "DualPipeV", .ranks = 2, .microbatches = 5};
  const PipelinePlan plan = plan_pipeline(o);
  const std::string svg = svg_of(plan, o);
  size_t bars = 0;
  for (const auto& list : plan.schedule.actions)
    for (const Action& a : list)
      bars += a.kind == Action::Kind::forward_backward ? 2 : a.computes() ? 1 : 0;
  constexpr size_t kBackgrounds = 1 + 2, kLegend = 2 * 4;
  EXPECT_EQ(count(svg, "<rect "), bars + kBackgrounds + kLegend);
  EXPECT_EQ(count(svg, "<text "), count(svg, "</text>"));
  EXPECT_THAT(svg, testing::StartsWith("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\""));
  EXPECT_THAT(svg, testing::EndsWith("</svg>\n"));
  EXPECT_THAT(svg, HasSubstr(">DualPipeV: 2 ranks, 4 stages, 5 microbatches</text>"));
  EXPECT_THAT(svg, HasSubstr(">bubble "));
  EXPECT_EQ(count(svg, "nan") + count(svg, "inf"), 0u);
}

TEST(PipelinePlan, ATableOfActionsIsDrawnLikeASchedule) {
  const test::TemporaryFolder folder;
  PipelinePlanOptions o{.csv = folder.write("a<b&c.csv", "0F0,0B0\n1F0,1B0\n"), .ranks = 2};
  const PipelinePlan plan = plan_pipeline(o);
  EXPECT_EQ(plan.schedule.microbatches, 1);
  EXPECT_DOUBLE_EQ(plan.simulation.makespan, 6);
  EXPECT_THAT(svg_of(plan, o), HasSubstr("a&lt;b&amp;c.csv: 2 ranks"));
}

TEST(PipelinePlan, FewMicrobatchesAreWarnedOfWithTheBubbleTheyCost) {
  EXPECT_EQ(plan_pipeline({.ranks = 4, .microbatches = 4}).warning, "");
  EXPECT_EQ(plan_pipeline({.ranks = 4, .microbatches = 2}).warning,
            "Number of microbatches (2) is less than the total number of stages (4) which may "
            "result in a bubble in the pipeline. Here ranks are idle 60.0 % of the step.");
}

TEST(PipelinePlan, WhatCannotBeIsRefusedWithTheRemedy) {
  EXPECT_EQ(refusal({.ranks = 16, .microbatches = 16, .blocks = 8}),
            "Number of stages (16) cannot be greater than effective layers (10)\n"
            "  --pp 16 with 1 stages a rank, --blocks 8, --first-less 1, --last-less 1.\n"
            "  Use at most 10 stages.");
  EXPECT_THAT(refusal({.schedule = "GPipe", .ranks = 2, .microbatches = 2, .stages_per_rank = 2}),
              HasSubstr("requires exactly 1 stage per rank, but got 2"));
  EXPECT_THAT(refusal({.schedule = "GPip", .ranks = 2, .microbatches = 2}),
              HasSubstr("did you mean GPipe?"));
  EXPECT_THAT(refusal({.ranks = 1024, .microbatches = 1 << 20}), HasSubstr("more than 2000000"));
  const PipelinePlanOptions many{.ranks = 64, .microbatches = 2048};
  EXPECT_THROW(svg_of(plan_pipeline(many), many), Error) << "262144 bars";
  EXPECT_THAT(refusal({.costs = {.forward = 0}}), HasSubstr("a forward and a backward take time"));
  EXPECT_THAT(refusal({.costs = {.transfer = -1}}), HasSubstr("--transfer -1: a time is needed"));
  EXPECT_THAT(refusal({.csv = "/no/such.csv", .ranks = 2}),
              HasSubstr("The specified path /no/such.csv does not exist or is not a file."));
}

}  // namespace
}  // namespace nereus
