// What a save beside steps costs a run: a part of `nereus bench checkpoint`.
#pragma once

#include <string>

namespace nereus {

struct BenchCheckpointRun {
  std::string config = "configs/slice1.toml", folder = "outputs/bench_checkpoint";
  int steps = 40;      // before the save, and after it
  bool small = false;  // TorchTitan's debugmodel on the CPU in its place
};

// Trains, with one save in the middle, and says what the steps after it took longer than those
// before it. Text for a person.
std::string bench_checkpoint_run(const BenchCheckpointRun&);

}  // namespace nereus
