// How fast states go to files and back, next to what `dd` reaches there: a part of `nereus bench
// checkpoint`.
#pragma once

#include <string>

namespace nereus {

struct BenchCheckpointDisk {
  std::string folder = "outputs/bench_checkpoint";
  double gib = 4;  // of states, in all
  int pairs = 3;   // of ours and dd, by turns: medians are compared
};

// One process, eight of a host, and what eight wrote read by three. Text for a person.
std::string bench_checkpoint_disk(const BenchCheckpointDisk&);

}  // namespace nereus
