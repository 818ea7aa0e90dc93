#include "observe/sink_group.h"

#include <algorithm>

#include "base/error.h"
#include "base/log.h"

namespace nereus {

SinkGroup::SinkGroup()
    : listener_([this](bool warning, std::string_view message) {
        const double time = clock_.now();
        const std::lock_guard lock(mutex_);
        if (lines_.size() < kLines) lines_.push_back({time, warning, std::string(message)});
      }) {}

SinkGroup::~SinkGroup() {
  try {
    hand_on_lines();
  } catch (const std::exception&) {
    // What ends the run is said elsewhere.
  }
}

void SinkGroup::add(std::unique_ptr<Sink> sink) { sinks_.push_back(std::move(sink)); }

// In the order in which they were added, whether or not another fails.
template <class Tell>
void SinkGroup::tell(const Tell& about) {
  std::vector<size_t> failed;
  std::string why;
  for (size_t i = 0; i < sinks_.size(); ++i) try {
      about(*sinks_[i]);
    } catch (const Error& e) {
      if (e.fault() != Fault::kIo) throw;
      failed.push_back(i);
      why += (why.empty() ? "" : "; ") + std::string(e.what());
    }
  if (!failed.empty()) stop_failed(failed, why);
}

void SinkGroup::stop_failed(const std::vector<size_t>& failed, const std::string& why) {
  std::vector<dev_t> full;
  for (const size_t i : failed)
    if (const AppendFile* file = sinks_[i]->file(); file != nullptr && file->out_of_space())
      full.push_back(file->file_system());
  std::vector<std::unique_ptr<Sink>> left;
  std::string stopped;
  for (size_t i = 0; i < sinks_.size(); ++i) {
    const AppendFile* file = sinks_[i]->file();
    const bool has_failed = std::find(failed.begin(), failed.end(), i) != failed.end();
    if (!has_failed && (file == nullptr ||
                        std::find(full.begin(), full.end(), file->file_system()) == full.end())) {
      left.push_back(std::move(sinks_[i]));
    } else if (file != nullptr) {
      stopped += (stopped.empty() ? "" : ", ") + file->path();
    }
  }
  sinks_ = std::move(left);
  log::warning("{}\n  Training goes on. Of it nothing more is written to {}; the log goes on.", why,
               stopped.empty() ? "there" : stopped);
}

void SinkGroup::hand_on_lines() {
  std::vector<LogLine> lines;
  {
    const std::lock_guard lock(mutex_);
    lines.swap(lines_);
  }
  for (const LogLine& line : lines) {
    tell([&](Sink& s) { s.log_line(line); });
    if (!line.warning) continue;
    const RunEvent event{
        .kind = EventKind::warning, .step = step_, .text = line.text, .time = line.time};
    tell([&](Sink& s) { s.event(event); });
  }
}

void SinkGroup::step(StepMetrics m) {
  hand_on_lines();
  m.time = clock_.now();
  step_ = m.step;
  tell([&](Sink& s) { s.step(m); });
}

void SinkGroup::experts(int64_t step, const ExpertTable& table) {
  const double time = clock_.now();
  tell([&](Sink& s) { s.experts(step, time, table); });
}

void SinkGroup::validation(ValidationMetrics m) {
  hand_on_lines();
  m.time = clock_.now();
  tell([&](Sink& s) { s.validation(m); });
}

void SinkGroup::event(RunEvent e) {
  hand_on_lines();
  e.time = clock_.now();
  step_ = std::max(step_, e.step);
  tell([&](Sink& s) { s.event(e); });
}

void SinkGroup::profile(const KernelProfile& p) {
  tell([&](Sink& s) { s.profile(p); });
}

}  // namespace nereus
