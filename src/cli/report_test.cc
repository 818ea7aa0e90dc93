#include "cli/report.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/subcommand_test.h"

namespace nereus {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

const test::Subcommand kReport("report", run_report);

class Report : public testing::Test {
 protected:
  Report() {
    fs::remove_all(folder_);
    for (const char* name : {"a", "b"}) {
      fs::create_directories(folder_ + "/" + name);
      std::ofstream out(folder_ + "/" + name + "/metrics.jsonl");
      for (int n = 1; n <= 20; ++n)
        out << R"({"step":)" << n << R"(,"loss":)" << 20 - n
            << R"(,"tps":100,"step_seconds":0.5,"tokens_seen":)" << 100 * n << "}\n";
    }
  }
  ~Report() override { fs::remove_all(folder_); }
  std::string run(const char* name) const { return folder_ + "/" + name; }

  const std::string folder_ = testing::TempDir() + "cli_report";
};

TEST_F(Report, PrintsOneJsonObjectAndWritesNothing) {
  const auto all = nlohmann::json::parse(kReport.output({run("a"), run("b"), "--json"}));
  ASSERT_EQ(all.at("runs").size(), 2U);
  EXPECT_EQ(all["runs"][0]["steps"], 20);
  EXPECT_EQ(all["runs"][0]["tokens_per_second"]["mean"], 200);
  EXPECT_EQ(all["runs"][0]["tokens_per_second_per_gpu"], 100);
  EXPECT_EQ(all["runs"][0]["window"], nlohmann::json({11, 20}));
  EXPECT_TRUE(all["comparison"]["pairs"][0]["first_step"].is_null());
  EXPECT_FALSE(fs::exists(run("a") + "/report.html"));
}

TEST_F(Report, WritesThePageIntoTheRunsFolderOrWhereItIsAsked) {
  EXPECT_THAT(kReport.output({run("a")}), HasSubstr("Report: " + run("a") + "/report.html\n"));
  EXPECT_TRUE(fs::exists(run("a") + "/report.html"));
  const std::string out = folder_ + "/both.html";
  EXPECT_THAT(kReport.output({run("a"), run("b"), "--out", out, "--window=15:20"}),
              HasSubstr("(steps 15 to 20)"));
  EXPECT_TRUE(fs::exists(out));
  EXPECT_THAT(kReport.refusal({run("a"), "--out", folder_ + "/none/x.html"}),
              HasSubstr("the page cannot be written: No such file or directory. Choose another"));
}

TEST_F(Report, RefusesWhatIsNoRunOrNoWindow) {
  EXPECT_THAT(kReport.refusal({folder_}), HasSubstr("there is no metrics.jsonl in it"));
  EXPECT_THAT(kReport.refusal({run("a"), "--window=9"}), HasSubstr("must be FIRST:LAST"));
  EXPECT_THAT(kReport.refusal({run("a"), "--text", "--json"}), HasSubstr("only one of"));
}

}  // namespace
}  // namespace nereus
