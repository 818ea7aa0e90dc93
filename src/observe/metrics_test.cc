#include "observe/metrics.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace nereus {
namespace {

StepMetrics example() {
  StepMetrics m;
  m.step = 7;
  m.loss = 8.01234;
  m.grad_norm = 1.5;
  m.lr = 2.2e-4;
  m.memory_gib = 1.254;
  m.memory_percent = 3.129;
  m.tokens_per_second = 1234567.4;
  m.tflops = 1072.1;
  return m;
}

// The texts are what Python's format strings of TorchTitan's metrics.py give for these numbers.
TEST(StepLine, IsTorchTitans) {
  StepMetrics m = example();
  EXPECT_EQ(step_line(m, false),
            "step:  7  loss:  8.0123  grad_norm:  1.5000  memory:  1.25GiB(3.13%)  tps: 1,234,567  "
            "tflops: 1,072.10  mfu: N/A");
  m.mfu_percent = 7.3;
  m.step = 1000;
  m.loss = 12.3456;
  EXPECT_EQ(
      step_line(m, false),
      "step: 1000  loss: 12.3456  grad_norm:  1.5000  memory:  1.25GiB(3.13%)  tps: 1,234,567  "
      "tflops: 1,072.10  mfu: 7.30%");
  EXPECT_EQ(step_line(m, true),
            "\033[31mstep: 1000  \033[32mloss: 12.3456  \033[38;2;180;60;0mgrad_norm:  1.5000  "
            "\033[38;2;54;234;195mmemory:  1.25GiB(3.13%)  \033[34mtps: 1,234,567  \033[36mtflops: "
            "1,072.10  \033[35mmfu: 7.30%\033[39m");
}

TEST(StepFields, HaveEachNameTagAndPlaceOnTheConsoleOnce) {
  std::set<std::string> names, tags;
  std::set<int> places;
  for (const MetricField& f : step_fields()) {
    EXPECT_TRUE(f.name != nullptr || f.tag != nullptr);
    EXPECT_TRUE(f.name == nullptr || names.insert(f.name).second) << f.name;
    EXPECT_TRUE(f.tag == nullptr || tags.insert(f.tag).second) << f.tag;
    if (f.console_place == 0) continue;
    EXPECT_TRUE(places.insert(f.console_place).second) << f.name;
    EXPECT_NE(f.console, nullptr) << f.name;
  }
  EXPECT_EQ(*places.begin(), 1);
  EXPECT_EQ(*places.rbegin(), static_cast<int>(places.size()));
}

TEST(StepLine, GroupsThousands) {
  EXPECT_EQ(with_thousands(999, 0), "999");
  EXPECT_EQ(with_thousands(1000, 0), "1,000");
  EXPECT_EQ(with_thousands(-1234.5, 2), "-1,234.50");
}

}  // namespace
}  // namespace nereus
