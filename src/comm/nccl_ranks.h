// Ranks with a GPU each: the data plane of training on GPUs. Defined in builds with CUDA only.
//
// The contract of communicator.h, with these differences:
//   streams   Tensors are on this rank's GPU, and so is the stream. Calls enqueue and return: the
//             host never waits for the device, and for other ranks only in split, in a group's
//             first all_to_all, in a pair's first recv, and when more messages of a pair are under
//             way than connect() said, or kMostSends. barrier is a place in the stream, not on
//             the host.
//   sums      NCCL's order, the same on all ranks and in every run of a layout; bf16 is rounded at
//             each of the up to size() - 1 additions. A maximum with NaN may be either.
//   order     What ranks call is not compared beforehand. Ranks that disagree, or do not come, are
//             found by the time-out, whose message tells what each rank of the group is in. Groups
//             that work at the same time need streams of their own, and so that no group waits for
//             another in a circle, all ranks enqueue them in one order.
//   send      is copied to memory of its own and sent from a stream of the pair's own, so it does
//             not wait; recv is part of the stream it is called on. A pair that connect() did not
//             name is opened, and its memory made, by its messages: then GPUs of one process wait
//             for each other to become idle, and ranks that wait for messages in a circle hang.
//   failures  A thread a rank watches NCCL's errors, the time-outs and the news of other ranks; on
//             any it aborts all groups, so that the stream ends (with undefined contents), and the
//             next call throws Error{kComm} with the world's note.
//
// What groups, and pairs that send, cost of device memory: comm/nccl_memory.h.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "control/world.h"

namespace nereus {

inline constexpr size_t kMostSends = 4;
// Of a pair and direction. With so many channels NCCL's buffers hold a message of 100 MiB: its
// kernel ends before the receiver comes. With fewer it waits for that on SMs that GEMMs then lack,
// which made ZBVZeroBubble on two H200s 9 % slower. Over a network a message waits for its receiver
// whatever the channels.
inline constexpr int kLinkSms = 32, kNetworkLinkSms = 4;
constexpr int link_sms(int from, int to) {
  return from / kMostGpusOfAHost == to / kMostGpusOfAHost ? kLinkSms : kNetworkLinkSms;
}

// All ranks of the world, this one on GPU `device`, which becomes the calling thread's. A
// collective. The world must outlive all groups. Throws Error{kConfig} without NCCL or that GPU.
std::unique_ptr<Communicator> nccl_ranks(World&, int device);

// The ncclComm_t of a group that was made here, for NCCL's device API; null for any other. It goes
// with the group.
void* nccl_handle(const Communicator&);

}  // namespace nereus
