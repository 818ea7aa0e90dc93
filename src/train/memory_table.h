// What a rank of a run needs of its device's memory, by owner, known before anything is allocated:
// activations are measured by running a microbatch on the meta device.
#pragma once

#include <string>
#include <vector>

#include "config/job_config.h"
#include "device/device.h"

namespace nereus {

struct MemoryTable {
  struct Row {
    std::string owner;
    double bytes = 0;
    std::string note;
  };
  std::vector<Row> rows;
  std::vector<Arena::Entry> largest;  // activations when they are the most, by name
  double total() const;
  std::string text() const;  // a line a row, the total, the largest activations
};

// For a rank of `world` (parameters sharded over all) on `target`'s device, whose libraries' plans
// are made on the way; with a meta stream, for the CPU.
MemoryTable memory_table(const JobConfig&, int64_t world, Stream& target);

// Throws Error{kConfig} when the run needs more than `available` bytes of the stream's device: the
// table, and which settings would make it fit.
void check_fits(const JobConfig&, Stream&, double available);

}  // namespace nereus
