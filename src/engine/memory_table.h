// What a rank of a run needs of its device's memory, by owner, known before anything is allocated:
// activations are measured by running a microbatch on the meta device.
#pragma once

#include <string>
#include <vector>

#include "config/job_config.h"
#include "device/device.h"
#include "engine/engine_options.h"
#include "engine/run_layout.h"

namespace nereus {

struct MemoryTable {
  struct Row {
    std::string owner;
    double bytes = 0;
    std::string note;
    bool host = false;  // pinned memory of the host, not the device's
  };
  std::vector<Row> rows;
  std::vector<Arena::Entry> largest;  // activations of a pass when they are the most, by name
  std::vector<Arena::Entry> kept;     // of one microbatch, by the stage that keeps the most
  double total() const;               // of the device
  // Of what the rank keeps in the host's memory in addition to the device's
  double host_total() const;
  std::string text() const;  // a line a row, the total, the host's rows, the largest activations
  std::string line() const;  // the device's rows, in GiB
};

// For rank `rank` of a layout on `target`'s device, whose libraries' plans are made on the way;
// with a meta stream, for the CPU, or for a GPU when device.kind asks for one.
MemoryTable memory_table(const JobConfig&, const ModelArgs&, const RunLayout&, int rank,
                         Stream& target, EngineUse use = EngineUse::training);

// One rank of each rank of the pipeline, in its order: the others have the same.
struct RankMemory {
  int rank = 0;
  std::vector<int> stages;
  MemoryTable table;
};
std::vector<RankMemory> memory_of_pipeline(const JobConfig&, const ModelArgs&, const RunLayout&,
                                           Stream& target);
// The one that needs the most.
const RankMemory& largest(const std::vector<RankMemory>&);

// Throws Error{kConfig} when the rank needs more than `available` bytes of the stream's device: the
// table, what settings would save, and which would make it fit; and when it alone needs more of the
// host's memory than `host_available`. Returns the table.
MemoryTable check_fits(const JobConfig&, const ModelArgs&, const RunLayout&, int rank, Stream&,
                       double available, double host_available,
                       EngineUse use = EngineUse::training);

}  // namespace nereus
