#include "report/run_files_test.h"
#include "report/top_screen.h"

namespace nereus::report {
namespace {

using test::RunFiles;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class Top : public RunFiles {
 protected:
  std::string screen(const RunFollower& run, int columns, int rows = 30) const {
    std::string out;
    const auto lines =
        top_screen(run, {.columns = columns, .rows = rows, .blocks = false, .color = false});
    EXPECT_LE(lines.size(), static_cast<size_t>(rows));
    for (const std::string& line : lines) {
      EXPECT_LE(line.size(), static_cast<size_t>(columns)) << line;
      out += line + "\n";
    }
    return out;
  }
};

TEST_F(Top, ShowsWhereARunIsOnTerminalsOfAnySize) {
  write("metrics.jsonl", steps(1, 50, 2) + "{\"step\":50,\"validation_loss\":9.25}\n");
  write("resolved_config.toml", "[training]\nsteps = 200  # x\n[job]\ndescription = \"my run\"\n");
  write("events.jsonl",
        R"({"time":1,"step":0,"kind":"start","text":"","ranks":2,"setup_seconds":1})"
        "\n"
        R"({"time":2,"step":40,"kind":"checkpoint","text":"saved\u001b[31m"})"
        "\n");
  const RunFollower run(folder_);
  EXPECT_EQ(run.lines().size(), 50U);
  const std::string wide = screen(run, 100);
  EXPECT_THAT(
      wide,
      AllOf(HasSubstr("2 ranks"), HasSubstr("my run"),
            HasSubstr(" 25 %  step 50 of 200, 5.0 min left"), HasSubstr("loss           9.5000  "),
            HasSubstr("validation 9.2500 at step 50"), HasSubstr("2.0000 s"),
            HasSubstr("0.5 % waiting for data"), HasSubstr("40  checkpoint saved [31m")));
  const std::string narrow = screen(run, 30);
  EXPECT_THAT(narrow, AllOf(HasSubstr("step 50 of 200"), HasSubstr("loss           9.5000"),
                            Not(HasSubstr("my run"))));
  for (int columns = 1; columns < 130; columns += 3)
    for (const int rows : {1, 5, 24}) screen(run, columns, rows);
}

TEST_F(Top, GoesOnWhereItWasAndWithAnotherStart) {
  const std::string file = write("metrics.jsonl", steps(1, 5) + "{\"step\":6,\"lo");
  RunFollower run(folder_);
  EXPECT_EQ(run.lines().back().step, 5);
  std::ofstream(file, std::ios::app) << "ss\":3.5}\n";  // the rest of the line
  run.look();
  EXPECT_EQ(run.lines().back().step, 6);
  EXPECT_EQ(run.last("loss"), 3.5);
  std::filesystem::rename(file, path("metrics.1.jsonl"));
  write("metrics.jsonl", step(4, 2));
  run.look();
  EXPECT_EQ(run.lines().back().step, 4);
  EXPECT_EQ(run.lines().size(), 4U);
}

// Also when its file has grown beyond the old one's length before it is looked at.
TEST_F(Top, ShowsTheSettingsOfAnotherStart) {
  const std::string file = write("metrics.jsonl", steps(1, 2));
  write("resolved_config.toml", "[training]\nsteps = 20  # x\n");
  RunFollower run(folder_);
  EXPECT_EQ(run.total_steps, 20);
  std::filesystem::rename(file, path("metrics.1.jsonl"));
  write("metrics.jsonl", steps(3, 9));
  write("resolved_config.toml", "[training]\nsteps = 40  # x\n");
  run.look();
  EXPECT_EQ(run.lines().back().step, 9);
  EXPECT_EQ(run.total_steps, 40);
}

TEST_F(Top, TheTimeLeftIsByTheMedianStep) {
  write("metrics.jsonl", step(1, 9, 1) + step(2, 9, 3));
  write("resolved_config.toml", "[training]\nsteps = 12  # x\n");
  EXPECT_THAT(screen(RunFollower(folder_), 100), HasSubstr("20.0 s left"));
}

TEST_F(Top, OfALargeFileItReadsTheEnd) {
  write("metrics.jsonl", steps(1, 20'000));
  const RunFollower run(folder_);
  EXPECT_EQ(run.lines().back().step, 20'000);
  EXPECT_EQ(run.lines().size(), RunFollower::kMost);
}

TEST_F(Top, AFolderWithoutMetricsIsRefused) {
  std::filesystem::create_directories(folder_);
  try {
    RunFollower run(folder_);
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("there is no metrics.jsonl in it. `nereus top` follows"));
  }
}

TEST(Sparkline, ShowsTheCourseAndFits) {
  EXPECT_EQ(sparkline({1, 2, 3, 4, 5, 6, 7, 8}, 8, false), "_.-:=+*#");
  EXPECT_EQ(sparkline({1, 1, 8, 8}, 2, false), "_#");
  EXPECT_EQ(sparkline({5}, 8, false), "=");
  EXPECT_EQ(sparkline({1, 8}, 8, true), "▁█");
  EXPECT_EQ(sparkline({}, 8, true), "");
}

}  // namespace
}  // namespace nereus::report
