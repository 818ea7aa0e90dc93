// A memory snapshot: who has what of a rank's memory, and how the memory of activations is used
// over a step, action by action. docs/profiling.md has the format.
#pragma once

#include <span>
#include <string>

#include "device/trace.h"
#include "engine/memory_table.h"
#include "observe/chrome_trace.h"

namespace nereus {

struct MemorySnapshot {
  TraceFacts facts;
  const MemoryTable& table;
};

// Of a step that began at `begin` (steady clock, ns). Whole or not at all; throws Error{kIo}.
void write_snapshot(const std::string& path, const MemorySnapshot&,
                    std::span<const TraceMemory> series, int64_t begin);

}  // namespace nereus
