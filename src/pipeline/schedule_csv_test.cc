#include "pipeline/schedule_csv.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using testing::HasSubstr;

std::string refusal(const std::string& text, int ranks = 2) {
  try {
    parse_schedule_csv(text, ranks, "x.csv");
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::kConfig);
    return e.what();
  }
  return "no error";
}

TEST(ScheduleCsv, EveryScheduleSurvivesTheRoundTrip) {
  for (const char* name : {"GPipe", "1F1B", "Interleaved1F1B", "LoopedBFS", "InterleavedZeroBubble",
                           "ZBVZeroBubble", "DualPipeV"}) {
    for (const int p : {1, 2, 4}) {
      const Schedule s = make_schedule(name, p, is_single_stage(name) ? 1 : 2, 2 * p);
      const Schedule back = parse_schedule_csv(schedule_csv(s), p, "x.csv");
      EXPECT_EQ(back.actions, s.actions) << name << " " << p;
      EXPECT_EQ(back.rank_of_stage, s.rank_of_stage);
      EXPECT_EQ(back.microbatches, s.microbatches);
    }
  }
}

TEST(ScheduleCsv, ReadsPyTorchsTablesWithIdleCellsAndCommunication) {
  const Schedule s = parse_schedule_csv(
      "0UNSHARD,0F0,0SEND_F0,0F1,,,0RECV_B0,\"0B0\", 0B1 ,0REDUCE_GRAD,0RESHARD\r\n"
      ",1F0,1B0,1F1,1B1\r\n\r\n",
      2, "x.csv");
  EXPECT_EQ(s.actions,
            parse_schedule_csv("0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n", 2, "x.csv").actions);
  EXPECT_EQ(s.microbatches, 2);
}

TEST(ScheduleCsv, AFileIsReadAndAMissingOneNamed) {
  const test::TemporaryFolder folder;
  const std::string path = folder.write("s.csv", "0F0,0B0\n");
  EXPECT_EQ(read_schedule_csv(path, 1).name, path);
  try {
    read_schedule_csv(folder.path(), 1);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(std::string(e.what()), "The specified path " + folder.path() +
                                         " does not exist or is not a file.\n  "
                                         "parallelism.pipeline_parallel_schedule_csv = \"" +
                                         folder.path() +
                                         "\": it is a folder; name a table of actions.");
  }
}

TEST(ScheduleCsv, AFileThatCannotBeLookedAtIsNamed) {
  const test::TemporaryFolder folder;
  const std::string loop = folder.file("loop");
  std::filesystem::create_symlink(loop, loop);
  EXPECT_THAT([&] { read_schedule_csv(loop, 1); },
              testing::ThrowsMessage<Error>(testing::HasSubstr(
                  "schedule_csv = \"" + loop + "\": Too many levels of symbolic links; name a")));
}

TEST(ScheduleCsv, WrongTablesAreRefusedByLineAndCell) {
  EXPECT_THAT(refusal("0F0,0X0\n1F0\n"), HasSubstr("x.csv: rank 0, cell 2: '0X0' is no action"));
  EXPECT_THAT(refusal("0F0\nF0\n"), HasSubstr("x.csv: rank 1, cell 1: 'F0' is no action"));
  EXPECT_THAT(refusal("0F\n"), HasSubstr("'0F' is no action"));
  EXPECT_THAT(refusal("0F99999999\n"), HasSubstr("is no action"));
  EXPECT_THAT(refusal("(0F0;0F1)OVERLAP_F_B\n"), HasSubstr("is no action"));
  EXPECT_THAT(refusal("(0F0)\n"), HasSubstr("is no action"));
  EXPECT_THAT(refusal("0F0,0B0\n"),
              HasSubstr("x.csv: 1 lines, and the pipeline has 2 ranks: one line a rank is needed"));
  EXPECT_THAT(refusal(""), HasSubstr("0 lines"));
  EXPECT_THAT(refusal("0F0,0B0\n2F0,2B0\n"), HasSubstr("stage 1 of 3 does not occur"));
  EXPECT_THAT(refusal("0F0,0B0\n1F0\n"),
              HasSubstr("microbatch 0 has no dgrad (B or I) on stage 1"));
  EXPECT_THAT(refusal("0F0,0B0\n0F1,1F0,1B0\n"), HasSubstr("0F1 is on rank 1, and stage 0 on"));
  EXPECT_THAT(refusal(",\n,,\n"), HasSubstr("there is no action"));
}

TEST(ScheduleCsv, AScheduleThatWaitsForEverIsRefused) {
  EXPECT_THAT(refusal("0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1\n"),
              testing::AllOf(HasSubstr("x.csv: this schedule would wait for ever:"),
                             HasSubstr("rank 0 is stuck at 0WAIT_B0"),
                             HasSubstr("rank 1 is stuck at 1WAIT_F1")));
}

}  // namespace
}  // namespace nereus
