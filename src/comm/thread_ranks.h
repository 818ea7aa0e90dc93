// Ranks as threads of this process: how a layout of many ranks is run and tested on one machine.
#pragma once

#include <chrono>

#include "comm/communicator.h"
#include "control/world.h"

namespace nereus {

struct ThreadRanksOptions {
  std::chrono::milliseconds timeout{300'000};  // of a collective, until World::set_timeout()
};

// Calls work(world) on `ranks` new threads (one rank: on the calling thread), one with each rank of
// a world of that size, and returns when all have ended. Tensors of these communicators are host
// memory.
//
// When a rank throws, the others' collectives end with an Error{kComm} that has its rank and
// message; when all have ended, the first exception is thrown again here.
void run_thread_ranks(int ranks, const ThreadRanksOptions&,
                      FunctionRef<void(Communicator& world)> work);

// The same, with what a rank needs of the others besides their tensors.
void run_thread_world(int ranks, const ThreadRanksOptions&,
                      FunctionRef<void(Communicator& all, World&)> work);

}  // namespace nereus
