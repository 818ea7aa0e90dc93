#include "report/follow.h"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <filesystem>

#include "base/check.h"
#include "base/files.h"
#include "report/event_line.h"
#include "report/json_lines.h"
#include "report/run_files.h"

namespace nereus::report {
namespace {

namespace fs = std::filesystem;
using Kind = JsonField::Kind;

constexpr int64_t kFirstBytes = 1 << 20;  // of a file's end, when it is first read
constexpr size_t kMostEvents = 64;

}  // namespace

RunFollower::RunFollower(const std::string& path) : folder_(path) {
  if (!is_there(folder_ + "/metrics.jsonl") && is_there(folder_ + "/outputs/metrics.jsonl"))
    folder_ += "/outputs";
  NEREUS_CHECK(kConfig, is_there(folder_ + "/metrics.jsonl"),
               "{}: {}. `nereus top` follows a run's folder (job.dump_folder), or a job by its "
               "number; a run writes metrics.jsonl from its start on.",
               path, is_folder(path) ? "there is no metrics.jsonl in it" : what_is_at(path));
  fs::path shown = fs::path(path).lexically_normal();
  if (!shown.has_filename()) shown = shown.parent_path();
  name = shown.filename().string();
  read_settings();
  look();
}

// Where to read on; false: nowhere. A new file of the name is read from its start.
bool RunFollower::at(const std::string& path, Tail& tail, int64_t& from) const {
  struct stat s {};
  if (::stat(path.c_str(), &s) != 0) return false;
  const auto inode = static_cast<uint64_t>(s.st_ino);
  const auto size = static_cast<int64_t>(s.st_size);
  if (tail.offset >= 0 && (inode != tail.inode || size < tail.offset)) tail.offset = 0;
  if (tail.offset < 0) tail.offset = std::max<int64_t>(0, size - kFirstBytes);
  tail.inode = inode;
  from = tail.offset;
  return size > from;
}

void RunFollower::look() {
  const Tail before = metrics_;
  read_metrics();
  const bool other = metrics_.inode != before.inode || metrics_.offset < before.offset;
  if (before.offset >= 0 && other) read_settings();  // another start
  read_events();
  struct stat s {};
  if (::stat((folder_ + "/metrics.jsonl").c_str(), &s) == 0)
    seconds_quiet = std::max(0.0, static_cast<double>(std::time(nullptr) - s.st_mtime));
}

void RunFollower::read_metrics() {
  const std::string path = folder_ + "/metrics.jsonl";
  int64_t from = 0;
  if (!at(path, metrics_, from)) return;
  JsonLines in(path, from);
  for (std::vector<JsonField> fields; in.next(fields);) {
    Line line{.step = -1, .figures = {}};
    bool validation = false;
    for (const JsonField& f : fields) {
      if (f.kind != Kind::number) continue;
      if (f.key == "step") {
        line.step = static_cast<int64_t>(f.number);
      } else if (f.key == "validation_loss") {
        validation = true;
        validation_loss = f.number;
      } else {
        line.figures[std::string(f.key)] = f.number;
      }
    }
    if (line.step < 0) continue;
    if (validation) {
      validated_step = line.step;
      continue;
    }
    while (!lines_.empty() && lines_.back().step >= line.step) lines_.pop_back();
    lines_.push_back(std::move(line));
    if (lines_.size() > kMost) lines_.pop_front();
  }
  metrics_.offset = in.offset();
}

void RunFollower::read_events() {
  const std::string path = folder_ + "/events.jsonl";
  int64_t from = 0;
  if (!at(path, told_, from)) return;
  JsonLines in(path, from);
  for (std::vector<JsonField> fields; in.next(fields);) {
    EventLine line;
    if (!event_of(fields, line)) continue;
    const std::string& kind = line.event.kind;
    if (!std::isnan(line.ranks)) ranks = static_cast<int64_t>(line.ranks);
    if (line.starts()) ended.clear();
    if (kind == "end") ended = line.how_it_ended();
    if (kind == "error" || kind == "nonfinite") ended = "failed";
    events_.push_back(std::move(line.event));
    if (events_.size() > kMostEvents) events_.pop_front();
  }
  told_.offset = in.offset();
}

void RunFollower::read_settings() {
  const std::string path = folder_ + "/resolved_config.toml";
  if (!is_there(path)) return;
  Run run;
  report::read_settings(path, run);
  total_steps = run.total_steps;
  description = run.description;
  model = run.model;
}

double RunFollower::last(const std::string& figure) const {
  if (lines_.empty()) return kUnknown;
  const auto it = lines_.back().figures.find(figure);
  return it == lines_.back().figures.end() ? kUnknown : it->second;
}

}  // namespace nereus::report
