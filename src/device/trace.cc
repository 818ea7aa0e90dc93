#include "device/trace.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <mutex>
#include <string_view>
#include <utility>

#include "device/nvtx.h"

namespace nereus {

const char* name_of(TraceKind kind) {
  constexpr std::array kNames = {"step", "action",    "layer",  "op",      "collective",
                                 "data", "optimizer", "saving", "waiting", "tasks"};
  return kNames[static_cast<size_t>(kind)];
}

// One lock for all threads of a rank: they are few, and what they tell is far apart.
struct TraceRecorder::Impl {
  struct Thread {
    TraceThread shown;
    const char* innermost = nullptr;
  };

  std::mutex mutex;
  int64_t number = 0;  // of the recording that goes on, or of the last one
  std::vector<Thread> threads;
  TraceRecording recording;
  std::vector<std::pair<const char*, int64_t>> sums;  // by counter

  // The calling thread's; -1: it has done nothing yet. The system's number, since another thread
  // may come after one that ended, with the same std::thread::id.
  int known_thread() const {
    const auto self = static_cast<int64_t>(::syscall(SYS_gettid));
    for (size_t i = 0; i < threads.size(); ++i)
      if (threads[i].shown.id == self) return static_cast<int>(i);
    return -1;
  }
  // The same, named after what it does first.
  int thread(TraceKind kind) {
    if (const int known = known_thread(); known >= 0) return known;
    const std::string name = kind == TraceKind::tasks    ? "compute"
                             : kind == TraceKind::data   ? "data"
                             : kind == TraceKind::saving ? "saving"
                                                         : "thread";
    int alike = 0;
    for (const Thread& t : threads) alike += t.shown.name.starts_with(name) ? 1 : 0;
    const bool numbered = alike > 0 || kind == TraceKind::tasks;
    threads.push_back({{numbered ? name + " " + std::to_string(alike + 1) : name,
                        static_cast<int64_t>(::syscall(SYS_gettid))}});
    return static_cast<int>(threads.size()) - 1;
  }
};

TraceRecorder::TraceRecorder(bool nvtx) : impl_(std::make_unique<Impl>()) {
  if (nvtx) parts_ = kNvtx;
}
TraceRecorder::~TraceRecorder() = default;

int64_t TraceRecorder::now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void TraceRecorder::start(Parts parts) {
  const std::lock_guard lock(impl_->mutex);
  const bool begins = (parts_ & (kRanges | kMemory)) == 0;
  if (begins) {
    constexpr size_t kReserved = 1 << 14;  // a step seldom has more, and what grows costs it time
    ++impl_->number;
    impl_->threads.clear();
    impl_->sums.clear();
    impl_->recording = {};
    impl_->recording.events.reserve(kReserved);
    impl_->threads[static_cast<size_t>(impl_->thread(TraceKind::step))].shown.name = "rank";
  }
  parts_ =
      static_cast<uint8_t>(parts_ | (parts.ranges ? kRanges : 0) | (parts.memory ? kMemory : 0));
}

TraceRecording TraceRecorder::take() {
  const std::lock_guard lock(impl_->mutex);
  parts_ = parts_ & kNvtx;
  ++impl_->number;
  for (const Impl::Thread& t : impl_->threads) impl_->recording.threads.push_back(t.shown);
  return std::exchange(impl_->recording, {});
}

void TraceRecorder::memory(TraceMemory m) {
  m.time = now();
  const std::lock_guard lock(impl_->mutex);
  if (records_memory()) impl_->recording.memory.push_back(m);
}

void TraceRecorder::count(const char* name, int64_t by) {
  const int64_t time = now();
  const std::lock_guard lock(impl_->mutex);
  if (!records_ranges()) return;
  for (auto& [known, sum] : impl_->sums)
    if (std::string_view(known) == name) {
      impl_->recording.counts.push_back({time, known, sum += by});
      return;
    }
  impl_->sums.emplace_back(name, by);
  impl_->recording.counts.push_back({time, name, by});
}

const char* TraceRecorder::innermost() {
  const std::lock_guard lock(impl_->mutex);
  const int known = impl_->known_thread();
  return known < 0 ? nullptr : impl_->threads[static_cast<size_t>(known)].innermost;
}

void TraceRange::begin(TraceRecorder* recorder, TraceKind kind, const char* name,
                       const TraceArgs& args) {
  recorder_ = recorder;
  name_ = name;
  recording_ = 0;
  if ((recorder->parts_.load(std::memory_order_relaxed) & TraceRecorder::kNvtx) != 0)
    nvtx::push(name);
  if (!recorder->records_ranges()) return;
  kind_ = kind;
  args_ = args;
  TraceRecorder::Impl& r = *recorder->impl_;
  const std::lock_guard lock(r.mutex);
  recording_ = r.number;
  thread_ = r.thread(kind);
  outer_ = std::exchange(r.threads[static_cast<size_t>(thread_)].innermost, name);
  begin_ = TraceRecorder::now();
}

void TraceRange::end() {
  const int64_t now = TraceRecorder::now();
  if ((recorder_->parts_.load(std::memory_order_relaxed) & TraceRecorder::kNvtx) != 0) nvtx::pop();
  if (recording_ == 0) return;
  TraceRecorder::Impl& r = *recorder_->impl_;
  const std::lock_guard lock(r.mutex);
  if (r.number != recording_) return;  // taken in the meantime
  r.threads[static_cast<size_t>(thread_)].innermost = outer_;
  r.recording.events.push_back({name_, kind_, thread_, begin_, now, args_});
}

}  // namespace nereus
