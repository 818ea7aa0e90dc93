#include "train/lr_schedule.h"

#include <cmath>
#include <numbers>

#include "base/check.h"
#include "base/log.h"

namespace nereus {

LrSchedule::LrSchedule(double lr, int64_t steps, int64_t warmup, std::optional<double> decay_ratio,
                       LrDecay decay_type, double min_lr_factor)
    : lr_(lr), min_factor_(min_lr_factor), steps_(steps), warmup_(warmup), type_(decay_type) {
  NEREUS_CHECK(kConfig, steps >= 1, "training.steps = {}: must be at least 1", steps);
  NEREUS_CHECK(kConfig, warmup >= 0, "lr_scheduler.warmup_steps = {}: must be at least 0", warmup);
  NEREUS_CHECK(kConfig, !decay_ratio || (*decay_ratio >= 0 && *decay_ratio <= 1),
               "lr_scheduler.decay_ratio = {}: must be from 0 to 1", *decay_ratio);
  NEREUS_CHECK(kConfig, min_lr_factor >= 0 && min_lr_factor <= 1,
               "lr_scheduler.min_lr_factor = {}: must be from 0 to 1", min_lr_factor);
  if (warmup_ > steps_) {
    log::warning(
        "Warmup steps ({}) exceed total training steps ({}). Adjusting warmup steps to {}.",
        warmup_, steps_, steps_);
    warmup_ = steps_;
  }
  decay_ = steps_ - warmup_;
  if (decay_ratio) {
    // nearbyint rounds ties to even, as Python's round does.
    const auto asked =
        static_cast<int64_t>(std::nearbyint(static_cast<double>(steps_) * *decay_ratio));
    if (asked > decay_) {
      log::warning(
          "Warmup ({}) + decay ({}) steps exceed total training steps ({}). Adjusting decay steps "
          "to {}.",
          warmup_, asked, steps_, decay_);
    } else {
      decay_ = asked;
    }
  }
  stable_ = steps_ + 1 - warmup_ - decay_;
}

double LrSchedule::at(int64_t step) const {
  NEREUS_CHECK(kContract, step >= 1 && step <= steps_, "step {} of {}", step, steps_);
  if (step <= warmup_) return lr_ * (static_cast<double>(step) / static_cast<double>(warmup_));
  if (step <= warmup_ + stable_) return lr_;
  const double p = static_cast<double>(step - warmup_ - stable_) / static_cast<double>(decay_);
  double a = 1 - p;
  if (type_ == LrDecay::sqrt) a = 1 - std::sqrt(p);
  if (type_ == LrDecay::cosine) a = 0.5 * (1.0 + std::cos(std::numbers::pi * p));
  return lr_ * (min_factor_ + (1 - min_factor_) * a);
}

}  // namespace nereus
