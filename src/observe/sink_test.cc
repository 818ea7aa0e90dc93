#include "observe/sink.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "observe/example_metrics_test.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

TEST(ConsoleSink, WritesTorchTitansLines) {
  const log::Capture capture;
  ConsoleSink sink(false);
  sink.step(test::example_step());
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
  const KernelProfile profile{.times = add_up(runs), .trace = "[]"};
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
