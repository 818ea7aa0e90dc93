#include "train/lr_schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "base/log.h"
#include "test/test_tensor.h"

namespace nereus {
namespace {

using ::testing::HasSubstr;

TEST(LrSchedule, EveryStepOfEveryReferenceTableIsEqualAsADouble) {
  const auto settings =
      nlohmann::json::parse(test::read_file(test::source_path("tests/golden/sched/settings.json")));
  ASSERT_EQ(settings.size(), 15u);
  for (const auto& [name, s] : settings.items()) {
    const log::Capture log;
    std::optional<double> ratio;
    if (!s["decay_ratio"].is_null()) ratio = s["decay_ratio"].get<double>();
    const LrSchedule schedule(s["lr"], s["steps"], s["warmup_steps"], ratio,
                              value_of<LrDecay>(s["decay_type"].get<std::string>()).value(),
                              s["min_lr_factor"]);
    std::istringstream table(
        test::read_file(test::source_path("tests/golden/sched/" + name + ".csv")));
    std::string line;
    std::getline(table, line);
    ASSERT_EQ(line, "step,lr");
    int rows = 0;
    while (std::getline(table, line)) {
      char* end = nullptr;
      const int64_t step = std::strtoll(line.c_str(), &end, 10);
      ASSERT_EQ(schedule.at(step), std::strtod(end + 1, nullptr)) << name << " step " << step;
      ++rows;
    }
    EXPECT_GE(rows, 10) << name;
  }
}

TEST(LrSchedule, AWarmUpOrDecayThatDoesNotFitIsCutWithAWarning) {
  const log::Capture log;
  const LrSchedule ramp(1, 20, 50, 0.8, LrDecay::cosine, 0.1);
  for (int n = 1; n <= 20; ++n) EXPECT_EQ(ramp.at(n), n / 20.0);
  EXPECT_THAT(log.text(), HasSubstr("WARNING - Warmup steps (50) exceed total training steps (20). "
                                    "Adjusting warmup steps to 20.\n"));
  EXPECT_THAT(log.text(),
              HasSubstr("WARNING - Warmup (20) + decay (16) steps exceed total training "
                        "steps (20). Adjusting decay steps to 0.\n"));
}

TEST(LrSchedule, DecayStepsAreRoundedTiesToEvenAndFitSilently) {
  const log::Capture log;
  // The last step is the decay's last but one.
  const auto last = [](int64_t steps, int64_t warmup, std::optional<double> ratio) {
    return LrSchedule(1, steps, warmup, ratio, LrDecay::linear, 0).at(steps);
  };
  EXPECT_EQ(last(5, 0, 0.5), 1 - 1 / 2.0);
  EXPECT_EQ(last(7, 0, 0.5), 1 - 3 / 4.0);
  EXPECT_EQ(last(10, 2, 0.8), 1 - 7 / 8.0);
  EXPECT_EQ(last(10, 2, std::nullopt), 1 - 7 / 8.0);
  EXPECT_EQ(log.text(), "");
}

TEST(LrSchedule, NumbersOutsideTheirRangeAreNamed) {
  const auto error = [](int64_t steps, int64_t warmup, double ratio, double min) {
    try {
      const LrSchedule schedule(1, steps, warmup, ratio, LrDecay::linear, min);
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), Fault::kConfig);
      return std::string(e.what());
    }
    return std::string("no error");
  };
  EXPECT_EQ(error(0, 0, 0, 0), "training.steps = 0: must be at least 1");
  EXPECT_EQ(error(1, -1, 0, 0), "lr_scheduler.warmup_steps = -1: must be at least 0");
  EXPECT_EQ(error(1, 0, 1.5, 0), "lr_scheduler.decay_ratio = 1.5: must be from 0 to 1");
  EXPECT_EQ(error(1, 0, 1, -1), "lr_scheduler.min_lr_factor = -1: must be from 0 to 1");
}

}  // namespace
}  // namespace nereus
