// A rank's saves that go on beside steps: a copy of what it saves in host memory, whose memory a
// thread makes beside the first steps, and a thread that writes it, one save at a time.
#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <thread>

#include "checkpoint/save_together.h"
#include "checkpoint/snapshot.h"
#include "control/world.h"
#include "train/checkpoint_state.h"

namespace nereus {

class SaveBeside {
 public:
  // Of what the rank keeps in this engine. Its memory begins to be made.
  SaveBeside(Engine&, Stream&);
  ~SaveBeside();  // waits for the save that goes on
  SaveBeside(const SaveBeside&) = delete;
  SaveBeside& operator=(const SaveBeside&) = delete;

  // Waits until the memory has been made, where it still is being: "", or why there is none.
  std::string made();

  // Begins a save of the states as they are now; none goes on, and the memory is there.
  // `save.write_shard` gives this rank's facts alone.
  void begin(Engine&, Stream&, World&, int64_t step, SaveTogether save);

  struct Ended {
    int64_t step = 0;
    std::string failure;  // see save_together()
    double seconds = 0;   // since begin()
  };
  bool has_ended() const { return writing_ && done_; }
  // Waits for the save that goes on; none: none does. Throws what the world ended with.
  std::optional<Ended> end();

 private:
  using Clock = std::chrono::steady_clock;

  const RankSlices slices_;
  std::vector<NamedView> biases_;  // of the engine, those that this rank writes
  Snapshot snapshot_;
  std::string no_memory_;
  std::thread maker_, writer_;
  bool writing_ = false;
  Ended current_;
  Clock::time_point begun_;
  std::exception_ptr error_;  // of the world
  std::atomic<bool> done_{false};
};

// A host's memory as one of its ranks sees it: what the rank needs for its copy, what is free.
struct HostShare {
  std::string host;
  int64_t bytes = 0, free = 0;
};
// Of the engine's rank, before SaveBeside is made.
HostShare host_share(const Engine&);
// All ranks call it: do the copies of all ranks of a host fit? Throws Error{kConfig}, the same on
// all, with `asked` as what asks for them.
void check_host_memory(World&, const HostShare& mine, const std::string& asked);

}  // namespace nereus
