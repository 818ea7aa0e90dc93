// Windows of NCCL's groups (its device API: symmetric memory, read and written over NVLink).
// Included by files that see CUDA's headers only.
#pragma once

#include <memory>

#include "comm/nccl_world.h"
#include "comm/window.h"

namespace nereus {

// A collective of the group. `id` is the same on all its ranks and no other
// window's.
std::unique_ptr<Window> make_nccl_window(NcclWorld&, NcclWorld::Group&, const std::string& id,
                                         Stream&, int64_t bytes);

// bases[r] = where rank r's block lies.
void launch_window_bases(int64_t* bases, int ranks, ncclWindow_t, cudaStream_t);

// Tells all ranks that this one has come to the `meeting`-th meeting, and waits until all have.
// Flag r of a rank, `flags` bytes behind its block's begin, is rank r's last meeting. Returns at
// once when *ended is not 0.
struct Meeting {
  const int64_t* bases;
  int64_t flags;
  int rank, ranks;
  uint64_t number;
  const int* ended;
};
void launch_meet(const Meeting&, cudaStream_t);

}  // namespace nereus
