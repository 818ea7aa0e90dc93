#include "report/run_builder.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace nereus::report {
namespace {

constexpr size_t kMostLogged = size_t{1} << 18;

}  // namespace

Start& RunBuilder::current() {
  if (run_.starts.empty()) start();
  return run_.starts.back();
}

void RunBuilder::start(double time) {
  run_.starts.emplace_back();
  run_.starts.back().begin = run_.starts.back().end = time;
  last_time_ = time;
  fresh_ = true;
  stalled_ = 0;
  tokens_before_ = kUnknown;
  overflows_before_ = overflows_;
  run_.completed = false;
}

void RunBuilder::seen(double time) {
  if (std::isnan(time)) return;
  Start& s = current();
  if (std::isnan(s.begin)) s.begin = s.end = last_time_ = time;
  // A clock that is set back: the time up to the jump counts, and that from there on.
  if (time < last_time_ - 1) {
    ++jumps_;
    jumped_back_ += last_time_ - time;
    s.begin -= last_time_ - time;
    s.end -= last_time_ - time;
  }
  last_time_ = time;
  s.end = std::max(s.end, time);
}

size_t RunBuilder::column(std::string_view name) {
  for (size_t i = 0; i < columns_.size(); ++i)
    if (columns_[i].name == name) return i;
  Column c{.name = std::string(name)};
  c.samples = &run_.series[c.name];
  const std::pair<const char*, double LoggedStep::*> members[] = {
      {"loss", &LoggedStep::loss},
      {"grad_norm", &LoggedStep::grad_norm},
      {"step_seconds", &LoggedStep::step_seconds},
      {"tps", &LoggedStep::tokens_per_second},
      {"tflops", &LoggedStep::tflops},
      {"tflops_causal", &LoggedStep::tflops_causal}};
  for (const auto& [known, member] : members)
    if (name == known) c.member = member;
  if (name == "tokens_seen") c.own = &RunBuilder::tokens_seen_;
  if (name == "expert_overflows") c.own = &RunBuilder::overflows_;
  columns_.push_back(std::move(c));
  return columns_.size() - 1;
}

void RunBuilder::figure(std::string_view name, double value) {
  if (next_column_ >= columns_.size() || columns_[next_column_].name != name)
    next_column_ = column(name);
  const Column& c = columns_[next_column_++];
  figures_.push_back({c.samples, value});
  if (c.member != nullptr) step_.*c.member = value;
  if (c.own != nullptr) this->*c.own = value;
}

void RunBuilder::rewind(int64_t step) {
  const auto x = static_cast<double>(step);
  for (auto& [name, samples] : run_.series) samples.rewind(x);
  double again = 0;
  int64_t steps = 0;
  while (!run_.logged.empty() && run_.logged.back().step >= step) {
    again += run_.logged.back().seconds;
    steps += run_.logged.back().step - run_.logged.back().before;
    run_.logged.pop_back();
  }
  // They are of the starts before this one, the latest first.
  for (size_t i = run_.starts.size() - 1; i-- > 0 && (again > 0 || steps > 0);) {
    Start& s = run_.starts[i];
    if (s.last < step) continue;
    const double seconds = std::min(again, s.training - s.again);
    const int64_t here = std::min(steps, s.last - std::max(s.first, step) + 1);
    s.again += seconds;
    s.again_steps += here;
    again -= seconds;
    steps -= here;
  }
}

void RunBuilder::take_time(double time) {
  step_.time = time;
  if (!std::isnan(step_.step_seconds) || step_.first || run_.logged.empty()) return;
  const LoggedStep& last = run_.logged.back();
  if (!(time >= last.time)) return;
  figure("step_seconds", (time - last.time) / static_cast<double>(step_.step - step_.before));
}

void RunBuilder::count_tokens() {
  if (std::isnan(tokens_seen_)) return;
  const auto steps = static_cast<double>(step_.step - step_.before);
  if (!std::isnan(tokens_before_))
    run_.tokens_per_step = (tokens_seen_ - tokens_before_) / steps;
  else if (std::isnan(run_.tokens_per_step))
    run_.tokens_per_step = tokens_seen_ / static_cast<double>(step_.step);
  tokens_before_ = tokens_seen_;
}

void RunBuilder::step_end(int64_t step, double time) {
  const bool back = !run_.logged.empty() && step <= run_.logged.back().step;
  if (back && !fresh_) start(time);
  if (back) rewind(step);
  Start& s = current();
  step_.step = step;
  step_.first = fresh_;
  // A start logs its first step alone; later lines stand for all steps since the one before.
  step_.before = fresh_ || run_.logged.empty() ? step - 1 : run_.logged.back().step;
  take_time(time);
  if (!std::isnan(step_.step_seconds))
    step_.seconds = step_.step_seconds * static_cast<double>(step - step_.before);
  s.training += step_.seconds;
  if (!fresh_) s.stalled += std::min(stalled_, step_.seconds);
  stalled_ = 0;
  if (fresh_) s.first = step;
  s.last = step;
  if (const double reruns = overflows_ - overflows_before_; reruns > 0) {
    s.reruns += static_cast<int64_t>(reruns);
    if (!std::isnan(step_.step_seconds))
      s.rerun += std::min(step_.seconds, reruns * step_.step_seconds);
  }
  overflows_before_ = overflows_;
  count_tokens();
  if (std::isnan(run_.loss_first)) run_.loss_first = step_.loss;
  for (const Figure& f : figures_) f.samples->add(static_cast<double>(step), f.value);
  figures_.clear();
  next_column_ = 0;
  keep();
  step_ = {};
  fresh_ = false;
  run_.steps = step;
}

void RunBuilder::keep() {
  if (++lines_ % run_.thinned == 0 || step_.first || run_.logged.empty()) {
    run_.logged.push_back(step_);
    if (run_.logged.size() >= kMostLogged) thin_out();
    return;
  }
  LoggedStep& last = run_.logged.back();  // stands for it too
  last.seconds += step_.seconds;
  last.step = step_.step;
  last.time = step_.time;
}

// Every other one stays and stands for its neighbour.
void RunBuilder::thin_out() {
  std::vector<LoggedStep> kept;
  kept.reserve(run_.logged.size() / 2 + 1);
  for (size_t i = 0; i < run_.logged.size(); ++i) {
    const LoggedStep& s = run_.logged[i];
    if (kept.empty() || s.first || kept.back().first || i % 2 == 0) {
      kept.push_back(s);
      continue;
    }
    kept.back().seconds += s.seconds;
    kept.back().step = s.step;
    kept.back().time = s.time;
  }
  run_.logged = std::move(kept);
  run_.thinned *= 2;
}

void RunBuilder::validation(int64_t step, double loss) {
  Samples& s = run_.series["validation_loss"];
  const auto x = static_cast<double>(step);
  if (!s.empty() && s.last().x >= x) s.rewind(x);
  s.add(x, loss);
}

void RunBuilder::finish() {
  if (jumps_ > 0)
    run_.notes.push_back(fmt::format(
        "The clock was set back {} time{}, by {:.0f} s in all: times are added up on both sides.",
        jumps_, jumps_ == 1 ? "" : "s", jumped_back_));
  const double tps = run_.logged.empty() ? kUnknown : run_.logged.back().tokens_per_second;
  const double seconds = run_.logged.empty() ? kUnknown : run_.logged.back().step_seconds;
  if (std::isnan(run_.ranks) && !std::isnan(run_.tokens_per_step) && tps > 0 && seconds > 0)
    run_.ranks = std::max(1.0, std::round(run_.tokens_per_step / seconds / tps));
  if (std::isnan(run_.peak_flops)) {
    const Samples* tflops = run_.find("tflops");
    const Samples* mfu = run_.find("mfu");
    if (tflops != nullptr && mfu != nullptr && mfu->last().y > 0)
      run_.peak_flops = 1e14 * tflops->last().y / mfu->last().y;
  }
}

}  // namespace nereus::report
