// The ranks of a run, whatever started them: what a program calls once, from its main thread.
//
//   run_ranks(read_launch_environment(launch_variables(), flags), options, [&](ThisRank& me) {
//     Stream stream(me.device, &pool);
//     ... me.ranks.all_reduce(stream, x), me.world.set_step(3) ...
//   });
//
// What moves their tensors:
//   one rank, --nproc N   threads of this process (one rank: the calling thread)
//   MPI launchers         MPI; without MPI in this build, sockets, if MASTER_ADDR and MASTER_PORT
//                         say where the ranks meet
//   torchrun, srun        sockets
// and NCCL instead of all of them on GPUs, one GPU a rank: that of its local number, or the only
// one that its process sees. (One rank alone needs none.) All processes meet through the control
// plane (control_plane.h), which compares versions and configurations first, and tells the others
// when one dies: each then ends within a second, by end_guard.h if not by itself.
#pragma once

#include <chrono>
#include <string>

#include "comm/communicator.h"
#include "control/world.h"
#include "launch/end_guard.h"
#include "launch/launch.h"

namespace nereus {

struct RankOptions {
  std::chrono::milliseconds init_timeout{300'000};  // to meet, and of collectives at first
  std::string version;                              // of the program; the build's id is added
  std::string configuration;  // lines of "key=value", the same on all ranks. No secrets
  Device::Kind device = Device::Kind::cpu;
  std::chrono::milliseconds end_time = kEndTime;  // of processes, and of threads with GPUs
};

struct ThisRank {
  Communicator& ranks;  // all of them: tensors
  World& world;         // everything else that they need of each other: steps, time-outs, failures
  int local_rank = 0, local_world_size = 1;  // on this host
  int hosts = 1;
  Device device;  // of the kind that was asked for
  EndGuard* guard = nullptr;
  int64_t free_memory = 0;  // of a GPU, in bytes, before the groups of several ranks took some

  // Calls work. When it throws, the others are told before the exception goes on, while all that
  // `work` uses still lives: destructors wait for a GPU's streams, which may wait for other ranks,
  // and would do so until a time-out. See run_as_rank().
  void run(FunctionRef<void()> work);
};

// Before CUDA is first called, for then it reads the variable. With few queues, as scripts for
// other programs ask for, a send that waits for its receiver holds up this rank's kernels, and the
// receiver may be waiting in the same way.
void ask_for_gpu_queues(bool speaks);

// Calls work once for each rank of this process, on that rank's thread, and returns when all have
// ended. An exception of `work` ends the other ranks with this rank and its message, and is thrown
// again here (of several threads', the first).
//
// The user's mistake (Fault::kConfig) ends all processes with its exit code, and is shown once: by
// rank 0 on standard error, whichever rank found it. It comes out as a ShownError.
void run_ranks(const LaunchEnvironment&, const RankOptions&, FunctionRef<void(ThisRank&)> work);

// Throws `error`, which this process met before run_ranks(). Where a launcher started others, they
// learn of it first, as run_ranks() tells them; they wait in it, or come with errors of their own.
[[noreturn]] void fail_before_meeting(const LaunchEnvironment&, const Error& error);

}  // namespace nereus
