// The report as page, JSON and lines.
#include "report/page.h"

#include <nlohmann/json.hpp>

#include "report/comparison.h"
#include "report/read_run.h"
#include "report/report_json.h"
#include "report/run_files_test.h"
#include "report/text.h"
#include "test/viewers.h"

namespace nereus::report {
namespace {

using nlohmann::json;
using test::RunFiles;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class Page : public RunFiles {
 protected:
  Run run_of(const std::string& name, const std::string& metrics, const std::string& config = "") {
    write(name + "/metrics.jsonl", metrics);
    if (!config.empty()) write(name + "/resolved_config.toml", config);
    return read_run(path(name));
  }
  // What the page's scripts parse.
  static json data_of(const std::string& html) {
    const std::string mark = "<script type=\"application/json\" id=\"data\">";
    const size_t begin = html.find(mark) + mark.size();
    return json::parse(html.substr(begin, html.find("</script>", begin) - begin));
  }
};

TEST_F(Page, TheJsonHasWhatScriptsReadByTheirNames) {
  std::vector<Run> runs{run_of("a", steps(1, 20))};
  const json all = json::parse(summary_json(runs, std::nullopt));
  const json& run = all.at("runs").at(0);
  EXPECT_EQ(run.at("steps"), 20);
  EXPECT_NEAR(run.at("loss_first").get<double>(), 9.99, 1e-12);
  EXPECT_NEAR(run.at("loss_last").get<double>(), 9.8, 1e-12);
  EXPECT_EQ(run.at("tokens_per_second").at("mean"), 2000);
  EXPECT_EQ(run.at("tokens_per_second").at("median"), 2000);
  EXPECT_EQ(run.at("tokens_per_second").at("stddev"), 0);
  EXPECT_EQ(run.at("tokens_per_second_per_gpu"), 1000);
  EXPECT_EQ(run.at("window"), json({11, 20}));
  EXPECT_TRUE(run.at("mfu").at("torchtitan").is_null());
}

TEST_F(Page, HtmlOfARunIsShownAsItIsWritten) {
  const std::string evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)><!--";
  std::vector<Run> runs{
      run_of("<b>a", steps(1, 3), "[job]\ndescription = \"" + evil + "\"  # " + evil + "\n")};
  runs[0].events.push_back({.kind = evil, .text = evil + "\xff\xfe"});
  const std::string html = page(runs);
  EXPECT_EQ(html.find("<script>alert"), std::string::npos);
  EXPECT_EQ(html.find("<img src=x"), std::string::npos);
  EXPECT_THAT(html, HasSubstr("<title>&lt;b&gt;a"));
  const json data = data_of(html);
  EXPECT_EQ(data.at("runs").at(0).at("summary").at("description"), evil);
  EXPECT_EQ(data.at("runs").at(0).at("details").at("events").at(0).at(2), evil);
}

// A page is a copy of the plotting library.
TEST_F(Page, HasTheLicenseOfThePlotsItHolds) {
  const std::string html = page({run_of("a", steps(1, 3))});
  const size_t begin = html.find("<!--\nuPlot 1.6.32");
  ASSERT_NE(begin, std::string::npos);
  const std::string comment = html.substr(begin, html.find("-->", begin) - begin);
  EXPECT_THAT(comment, AllOf(HasSubstr("Copyright (c) 2022 Leon Sorokin"),
                             HasSubstr("Permission is hereby granted, free of charge"),
                             HasSubstr("OTHER DEALINGS IN\nTHE SOFTWARE.")));
}

TEST_F(Page, NeedsNoNetwork) {
  const std::string html = page({run_of("a", steps(1, 3))});
  for (const char* part : {"src=\"", "<link rel=\"stylesheet\"", "@import", "url(http", "fetch("})
    EXPECT_EQ(html.find(part), std::string::npos) << part;
  EXPECT_EQ(html.find("@DATA@"), std::string::npos);
}

TEST_F(Page, OfAHundredThousandStepsStaysBelowTwoMegabytesWithItsExtremes) {
  std::string text;
  for (int n = 1; n <= 100'000; ++n) {
    text += fmt::format("{{\"step\":{},\"loss\":{}", n, n == 54'321 ? 99.5 : 2 + 1e-5 * (n % 977));
    for (int f = 0; f < 25; ++f)
      text += fmt::format(",\"figure_{}\":{:.6f}", f, 1.0 / (n * 7919 % 10007 + f + 1));
    text += "}\n";
  }
  const std::string html = page({run_of("a", text)});
  EXPECT_LT(html.size(), 2'000'000U);
  const json loss = data_of(html).at("runs").at(0).at("series").at("loss").at("p");
  int64_t step = 0;
  bool found = false;
  for (size_t i = 0; i < loss.at(0).size(); ++i) {
    step += loss.at(0).at(i).get<int64_t>();
    found = found || (step == 54'321 && loss.at(1).at(i) == 99.5);
  }
  EXPECT_TRUE(found);
  EXPECT_EQ(step, 100'000);
}

TEST_F(Page, SaysWhereTwoRunsFirstDiffer) {
  std::vector<Run> runs{
      run_of("a", steps(1, 20), "[training]\nseed = 1  # x\n[metrics]\nlog_freq = 1  # default\n"),
      run_of("b", steps(1, 6) + step(7, 9.93001) + step(8, 11) + steps(9, 20),
             "[training]\nseed = 2  # y\n[metrics]\nlog_freq = 1  # default\n")};
  const Comparison c = compare(runs);
  ASSERT_EQ(c.pairs.size(), 1U);
  EXPECT_EQ(c.pairs[0].common, 20);
  EXPECT_EQ(c.pairs[0].first_step, 7);
  EXPECT_EQ(c.pairs[0].one_percent, 8);
  EXPECT_EQ(c.pairs[0].largest_step, 8);
  ASSERT_EQ(c.settings.size(), 1U);
  EXPECT_EQ(c.settings[0].key, "training.seed");
  EXPECT_FALSE(c.models_differ);
  EXPECT_THAT(text(runs),
              AllOf(HasSubstr("a and b first differ at step 7"), HasSubstr("by 1 % from step 8"),
                    HasSubstr("training.seed: 1 | 2"), Not(HasSubstr("different models"))));
}

// Where losses differ only in that one is no number, "most by" has no answer.
TEST_F(Page, ALossThatIsNotFiniteIsADifferenceWithoutASize) {
  std::vector<Run> runs{run_of("a", steps(1, 8)),
                        run_of("b", steps(1, 6) + "{\"step\":7,\"loss\":null}\n" + step(8, 9.92))};
  const Comparison::Pair p = compare(runs).pairs.at(0);
  EXPECT_EQ(p.first_step, 7);
  EXPECT_EQ(p.largest_step, -1);
  EXPECT_THAT(text(runs),
              HasSubstr("a and b first differ at step 7: loss 9.93 and nan; by 1 % from "
                        "step 7.\n"));
  runs[0].logged[6].loss = std::numeric_limits<double>::infinity();
  runs[1].logged[6].loss = 3;
  EXPECT_EQ(compare(runs).pairs.at(0).largest_step, -1);
}

TEST_F(Page, ABrowserShowsTheComparisonWithALossThatIsNotFinite) {
  NEREUS_VIEWER(browser, "chromium");
  const std::string file =
      write("page.html",
            page({run_of("a", steps(1, 8)),
                  run_of("b", steps(1, 6) + "{\"step\":7,\"loss\":null}\n" + step(8, 9.92))}));
  const std::string shown = nereus::test::output_of(
      browser + " --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir=" +
      path("browser") + " --dump-dom file://" + file + " 2>/dev/null");
  EXPECT_THAT(shown,
              HasSubstr("a and b first differ at step 7: loss 9.93 and not finite; by 1 % or "
                        "more from step 7.</li>"));
}

TEST_F(Page, ALogsFourDecimalsAreNoDifference) {
  std::string log;
  for (int n = 1; n <= 20; ++n)
    log +=
        fmt::format("step: {}  loss: {:.4f}  tps: 10\n", n, n == 9 ? 9.912 : 10 - 0.01 * n + 4e-5);
  const Comparison c = compare({run_of("a", steps(1, 20)), read_run(write("b.log", log))});
  EXPECT_EQ(c.pairs.at(0).common, 20);
  EXPECT_EQ(c.pairs.at(0).first_step, 9);
}

TEST_F(Page, RunsOfDifferentModelsAreDrawnAndSaid) {
  std::vector<Run> runs{run_of("a", steps(1, 3), "[model]\nflavor = \"16B\"  # a.toml:1\n"),
                        run_of("b", steps(1, 3), "[model]\nflavor = \"671B\"  # b.toml:1\n")};
  EXPECT_TRUE(compare(runs).models_differ);
  EXPECT_THAT(text(runs), HasSubstr("These runs are of different models"));
  EXPECT_EQ(data_of(page(runs)).at("comparison").at("models_differ"), true);
}

TEST_F(Page, TheLinesForATerminalFitOneLook) {
  const std::string lines = text({run_of("a", steps(1, 20))});
  EXPECT_THAT(lines, AllOf(HasSubstr("loss           9.9900 to 9.8000 (lowest 9.8000)"),
                           HasSubstr("mean 2,000, median 2,000, deviation 0.0000"),
                           HasSubstr("(steps 11 to 20)")));
  EXPECT_THAT(one_line(run_of("a", steps(1, 20))),
              HasSubstr("loss 9.9900 to 9.8000 in 20 steps; 2,000 tokens/s"));
}

TEST(Duration, HasTwoUnitsAtMost) {
  EXPECT_EQ(duration(4.25), "4.2 s");
  EXPECT_EQ(duration(300), "5.0 min");
  EXPECT_EQ(duration(7500), "2 h 05 min");
  EXPECT_EQ(duration(200'000), "2 d 07 h");
}

}  // namespace
}  // namespace nereus::report
