#include "observe/jsonl_sinks.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "observe/example_metrics_test.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

TEST(MetricsFileSink, WritesOneObjectAStepWithEveryFieldInFullPrecision) {
  const test::TemporaryFolder folder;
  StepMetrics m = test::example_step();
  {
    MetricsFileSink sink(folder.file("metrics.jsonl"));
    sink.step(m);
    m.loss = std::numeric_limits<double>::quiet_NaN();
    m.experts = ExpertFigures{.p95 = 1.75, .dead = 3, .bias_min = -0.25f};
    sink.step(m);
    sink.validation({.step = 7, .loss = 6.5});
  }
  std::istringstream text(test::read_file(folder.file("metrics.jsonl")));
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(static_cast<std::ptrdiff_t>(lines[0].size()),
            std::count_if(step_fields().begin(), step_fields().end(),
                          [](const MetricField& f) { return f.name != nullptr; }));
  EXPECT_EQ(lines[0]["loss"].get<double>(), 8.01234);
  EXPECT_EQ(lines[0]["lr"].get<double>(), 0.00022);
  EXPECT_EQ(lines[0]["tokens_seen"].get<int64_t>(), int64_t{1} << 60);
  EXPECT_TRUE(lines[0]["mfu"].is_null());
  EXPECT_TRUE(lines[0]["expert_dead"].is_null());
  EXPECT_TRUE(lines[1]["loss"].is_null());
  EXPECT_EQ(lines[1]["expert_dead"], 3);
  EXPECT_EQ(lines[1]["expert_load_p95"], 1.75);
  EXPECT_EQ(lines[1]["expert_bias_min"], -0.25);
  EXPECT_TRUE(lines[1]["expert_bias_max"].is_null());
  EXPECT_EQ(lines[2].dump(), "{\"step\":7,\"validation_loss\":6.5}");
}

TEST(EventsFileSink, WritesTheFactsOfAnEventAndAnyBytesOfItsText) {
  const test::TemporaryFolder folder;
  EventsFileSink(folder.file("events.jsonl"))
      .event({.kind = EventKind::checkpoint,
              .step = 50,
              .text = "\xff \"quoted\"\n",
              .facts = {{"seconds", 0.5}, {"state", "saved"}, {"n", int64_t{2}}},
              .time = 1764500000.25});
  const std::string text = test::read_file(folder.file("events.jsonl"));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
  const auto json = nlohmann::json::parse(text);
  EXPECT_EQ(json["time"], 1764500000.25);
  EXPECT_EQ(json["step"], 50);
  EXPECT_EQ(json["kind"], "checkpoint");
  EXPECT_EQ(json["text"], "\xEF\xBF\xBD \"quoted\"\n");
  EXPECT_EQ(json["seconds"], 0.5);
  EXPECT_EQ(json["state"], "saved");
  EXPECT_EQ(json["n"], 2);
}

TEST(ExpertsFileSink, WritesCountsAndBiasesByLayer) {
  const test::TemporaryFolder folder;
  ExpertsFileSink(folder.file("experts.jsonl"))
      .experts(10, 0,
               {.experts = 2,
                .layers = {1, 3},
                .counts = {1, 2, 3, 4},
                .bias = {0.001f, 0, 0, -0.1234567f}});
  EXPECT_EQ(test::read_file(folder.file("experts.jsonl")),
            "{\"step\":10,\"counts\":{\"1\":[1,2],\"3\":[3,4]},"
            "\"bias\":{\"1\":[0.001,0.0],\"3\":[0.0,-0.123457]}}\n");
}

}  // namespace
}  // namespace nereus
