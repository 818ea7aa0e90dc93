// What NCCL keeps of a rank's GPU memory, by formula, in bytes; of builds without CUDA too.
//
// Measured on two H200s over NVLink with NCCL 2.28.9, by its own log of allocations and by the
// device's free memory. A channel is an SM at work (most_sms() of communicator.h); NCCL connects
// all rings and trees when a group is made (nccl_library_nccl.cc). Of a group:
//   start        4 MiB, and 14 MiB for each of a power of two of channels
//   ring         12 MiB a channel: 10 for what comes (buffers of three protocols: 4, 4.8 and 0.5
//                MiB, in pieces of 2 MiB) and 2 for what goes
//   all pairs    12 MiB a channel and other rank, when an all-to-all first needs them
//   one pair     10 MiB a channel where it receives, 2 MiB where it sends
// From NCCL's source, not measured: trees of three ranks and more have as much as the ring; over a
// network what goes has buffers too, and a tree has three neighbours: 60 MiB a channel at most.
#pragma once

#include <cstdint>

#include "comm/communicator.h"

namespace nereus {

struct NcclGroup {
  int sms = 1;  // most_sms() of its use
  int ranks = 2;
  bool network = false;       // they are on several hosts
  int pairs = 0;              // other ranks of this host that an all-to-all reaches
  bool over_network = false;  // an all-to-all reaches ranks of other hosts
};
int64_t nccl_group_bytes(const NcclGroup&);

// The library itself, and its kernels' memory, of a run of several ranks; and more where any send
// and receive.
inline constexpr int64_t kNcclBytes = int64_t{382} << 20;
inline constexpr int64_t kNcclPairsBytes = int64_t{58} << 20;

// Of ranks of the world and one direction (nccl_ranks.h), for the one that sends or that receives.
int64_t nccl_link_bytes(int from, int to, bool sends);

}  // namespace nereus
