#include "observe/sink.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "base/log.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

StepMetrics example() {
  StepMetrics m;
  m.step = 7;
  m.loss = 8.01234;
  m.grad_norm = 1.5;
  m.lr = 2.2e-4;
  m.tokens_seen = int64_t{1} << 60;
  return m;
}

TEST(JsonlSink, WritesOneObjectAStepWithEveryFieldInFullPrecision) {
  const test::TemporaryFolder folder;
  StepMetrics m = example();
  {
    JsonlSink sink(folder.file("metrics.jsonl"));
    sink.step(m);
    m.loss = std::numeric_limits<double>::quiet_NaN();
    sink.step(m);
    sink.validation({.step = 7, .loss = 6.5});
  }
  std::istringstream text(test::read_file(folder.file("metrics.jsonl")));
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0].size(), step_fields().size());
  EXPECT_EQ(lines[0]["loss"].get<double>(), 8.01234);
  EXPECT_EQ(lines[0]["lr"].get<double>(), 0.00022);
  EXPECT_EQ(lines[0]["tokens_seen"].get<int64_t>(), int64_t{1} << 60);
  EXPECT_TRUE(lines[0]["mfu"].is_null());
  EXPECT_TRUE(lines[1]["loss"].is_null());
  EXPECT_EQ(lines[2].dump(), "{\"step\":7,\"validation_loss\":6.5}");
}

TEST(JsonlSink, NamesAFileThatCannotBeWritten) {
  EXPECT_THROW(JsonlSink("/proc/none/metrics.jsonl"), Error);
}

TEST(ConsoleSink, WritesTorchTitansLines) {
  const log::Capture capture;
  ConsoleSink sink(false);
  sink.step(example());
  sink.validation({.step = 7,
                   .loss = 6.5,
                   .memory_gib = 1.5,
                   .memory_percent = 2,
                   .tokens_per_second = 1234.4});
  EXPECT_NE(capture.text().find("step:  7  loss:  8.0123  grad_norm:  1.5000  memory: "),
            std::string::npos);
  EXPECT_NE(
      capture.text().find("validate step:  7  loss:  6.5000  memory:  1.50GiB(2.00%)  tps: 1,234"),
      std::string::npos);
}

TEST(KernelFilesSink, WritesBothFilesWholeOrSaysWhichItCannotWrite) {
  const test::TemporaryFolder folder;
  const std::vector<KernelRun> runs{{.name = "gemm", .begin = 10, .end = 30, .stream = 7}};
  const KernelProfile profile{.runs = runs, .times = add_up(runs)};
  KernelFilesSink(folder.path()).profile(profile);
  EXPECT_NE(test::read_file(folder.file("kernels.csv")).find("gemm"), std::string::npos);
  EXPECT_TRUE(nlohmann::json::accept(test::read_file(folder.file("kernels_trace.json"))));
  try {
    KernelFilesSink(folder.file("none")).profile(profile);
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("cannot write " + folder.file("none") + "/kernels.csv"),
              std::string::npos);
  }
}

}  // namespace
}  // namespace nereus
