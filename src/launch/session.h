// The ranks of a run, whatever started them: what a program calls once, from its main thread.
//
//   run_ranks(read_launch_environment(launch_variables(), flags), options, [&](ThisRank& me) {
//     Stream stream(me.device, &pool);
//     ... me.world ...
//   });
//
// Which communicator the world is:
//   one rank, --nproc N   threads of this process (one rank: the calling thread)
//   MPI launchers         MPI; without MPI in this build, sockets, if MASTER_ADDR and
//                         MASTER_PORT say where the ranks meet
//   torchrun, srun        sockets
// and NCCL instead of all of them on GPUs, one GPU a rank: that of its local number, or the only
// one that its process sees. (One rank alone has a world for host memory, wherever it works.) All
// processes meet through the control plane (control_plane.h), which compares versions and
// configurations first, and tells the others when one dies.
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "comm/communicator.h"
#include "control/control_plane.h"
#include "launch/launch.h"

namespace nereus {

struct RankOptions {
  std::chrono::milliseconds init_timeout{300'000};  // to meet, and of collectives at first
  std::string version;                              // of the program; the build's id is added
  std::string configuration;  // lines of "key=value", the same on all ranks. No secrets
  Device::Kind device = Device::Kind::cpu;
};

struct ThisRank {
  Communicator& world;
  int local_rank = 0, local_world_size = 1;  // on this host
  int hosts = 1;
  Device device;                    // of the kind that was asked for
  ControlPlane* control = nullptr;  // where ranks are processes
  std::function<bool()> ended;      // has the world? Not given: nobody waits for this rank's word
  bool told = false;                // the others know that this rank failed

  // Calls work. When it throws, the others are told before the exception goes on, while all that
  // `work` uses still lives: destructors wait for a GPU's streams, which may wait for other ranks,
  // and would do so until a time-out.
  void run(FunctionRef<void()> work);
};

// Calls work once for each rank of this process, on that rank's thread, and returns when all have
// ended. An exception of `work` ends the other ranks with this rank and its message, and is thrown
// again here (of several threads', the first).
void run_ranks(const LaunchEnvironment&, const RankOptions&, FunctionRef<void(ThisRank&)> work);

}  // namespace nereus
