// A checkpoint that all ranks of a world write together: every rank its shard into step-N.partial,
// the manifest by rank 0 when it has all parts, then the rename. Needs no communicator, so that a
// thread of its own can do it while steps go on.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"
#include "control/world.h"

namespace nereus {

struct SaveTogether {
  std::string place;  // {folder}/step-N
  std::string key;    // of this save, in the world: no two have the same at a time
  // Writes this rank's shard into the folder under the name. Its part may carry facts of the rank
  // as `run`.
  std::function<Manifest(const std::string& folder, const std::string& name)> write_shard;
  // On rank 0: the manifest's `run` from those of all ranks' parts, by rank.
  std::function<std::string(const std::vector<std::string>&)> make_run;
  bool verify = false;  // each rank reads its shard back: one that differs fails the save
  std::chrono::seconds patience{1800};  // of rank 0 with another rank's shard, and the other way
  std::chrono::seconds visible{30};     // until rank 0 must see what another host wrote
};

// All ranks call it. "" when the checkpoint is complete, else what went wrong where, the same text
// on all ranks; nothing of it is left then. Throws Error{kComm} when the world ends.
std::string save_together(World&, const SaveTogether&);

}  // namespace nereus
