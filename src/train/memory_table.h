// What a rank of a run needs of its device's memory, by owner, known before anything is allocated:
// activations are measured by running a microbatch on the meta device.
#pragma once

#include <string>
#include <vector>

#include "config/job_config.h"
#include "device/device.h"
#include "train/run_layout.h"

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

// For rank `rank` of a layout on `target`'s device, whose libraries' plans are made on the way;
// with a meta stream, for the CPU.
MemoryTable memory_table(const JobConfig&, const RunLayout&, int rank, Stream& target);

// Throws Error{kConfig} when the rank needs more than `available` bytes of the stream's device: the
// table, and which settings would make it fit.
void check_fits(const JobConfig&, const RunLayout&, int rank, Stream&, double available);

}  // namespace nereus
