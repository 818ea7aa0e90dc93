// What the threads of a rank do while a step is recorded: ranges with a name, which nest on their
// thread, counters, and the memory that is in use.
//
//   const TraceRange range(stream.trace(), TraceKind::layer, "block", {.layer = 3});
//
// A rank that may be recorded has one TraceRecorder, which its Stream carries to whoever does work
// on it. Elsewhere there is none, and a range costs the look at a null pointer; where there is one
// and nothing is recorded, the look at a flag. Times are of std::chrono::steady_clock, in ns.
//
// While a profiler that understands NVTX is attached (device/nvtx.h) ranges are told to it too.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace nereus {

enum class TraceKind : uint8_t {
  step,
  action,      // of the schedule
  layer,       // a module of a stage
  op,          // ops/
  collective,  // and messages between two ranks
  data,
  optimizer,
  saving,
  waiting,  // of the host, for the device or another thread
  tasks,    // a thread of the pool that takes part in an op
};
const char* name_of(TraceKind);

// What a range is of. -1, 0 or null: does not apply.
struct TraceArgs {
  int stage = -1, microbatch = -1, layer = -1;
  int64_t step = -1;
  int64_t bytes = 0;            // of the tensors that are read and written, or sent
  const char* group = nullptr;  // of ranks; must live until the recording is taken
};

struct TraceEvent {
  const char* name;  // a literal
  TraceKind kind;
  int thread;  // of TraceRecording::threads
  int64_t begin, end;
  TraceArgs args;
};

// The bytes that activations hold, at most, during an action of the schedule.
struct TraceMemory {
  int64_t time;  // the action's end
  const char* action;
  int stage, microbatch;
  int64_t kept;   // of microbatches in flight: what forward keeps, and what dgrad leaves for wgrad
  int64_t edges;  // that those have got from other stages
  int64_t pass;   // scratch, and what backward makes again
};

struct TraceCount {
  int64_t time;
  const char* name;  // a literal
  int64_t value;     // since the recording began
};

struct TraceThread {
  std::string name;
  int64_t id = 0;  // the system's
};

struct TraceRecording {
  std::vector<TraceEvent> events;  // by end
  std::vector<TraceMemory> memory;
  std::vector<TraceCount> counts;
  std::vector<TraceThread> threads;
};

class TraceRecorder {
 public:
  // `nvtx`: ranges go to NVTX always, recorded or not.
  explicit TraceRecorder(bool nvtx = false);
  ~TraceRecorder();
  TraceRecorder(const TraceRecorder&) = delete;
  TraceRecorder& operator=(const TraceRecorder&) = delete;

  struct Parts {
    bool ranges = false;  // and counters
    bool memory = false;
  };
  // From here on; what is being recorded goes on. The calling thread is the rank's own.
  void start(Parts);
  // Ends the recording. Ranges that have not ended are not in it.
  TraceRecording take();

  bool records_ranges() const { return (parts_.load(std::memory_order_relaxed) & kRanges) != 0; }
  bool records_memory() const { return (parts_.load(std::memory_order_relaxed) & kMemory) != 0; }
  bool wants_ranges() const {
    return (parts_.load(std::memory_order_relaxed) & (kRanges | kNvtx)) != 0;
  }

  void memory(TraceMemory);                  // time is filled in
  void count(const char* name, int64_t by);  // adds to a counter
  // The name of the range that the calling thread is in; null: in none.
  const char* innermost();

  static int64_t now();

 private:
  friend class TraceRange;
  static constexpr uint8_t kRanges = 1, kMemory = 2, kNvtx = 4;

  struct Impl;
  std::unique_ptr<Impl> impl_;
  std::atomic<uint8_t> parts_{0};
};

class TraceRange {
 public:
  TraceRange(TraceRecorder* recorder, TraceKind kind, const char* name,
             const TraceArgs& args = {}) {
    if (recorder != nullptr && recorder->wants_ranges()) begin(recorder, kind, name, args);
  }
  ~TraceRange() {
    if (recorder_ != nullptr) end();
  }
  TraceRange(const TraceRange&) = delete;
  TraceRange& operator=(const TraceRange&) = delete;

 private:
  void begin(TraceRecorder*, TraceKind, const char* name, const TraceArgs&);
  void end();

  TraceRecorder* recorder_ = nullptr;
  // Without initial values: a range that is not recorded writes none of it.
  TraceKind kind_;
  const char *name_, *outer_;
  int thread_;
  int64_t begin_, recording_;
  TraceArgs args_;
};

}  // namespace nereus
