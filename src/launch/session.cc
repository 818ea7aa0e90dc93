#include "launch/session.h"

#include <cstdlib>
#include <memory>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "comm/mpi_ranks.h"
#include "comm/nccl_ranks.h"
#include "comm/single_rank.h"
#include "comm/socket_ranks.h"
#include "comm/thread_ranks.h"
#include "control/local_world.h"
#include "control/world.h"
#include "device/cuda_runtime.h"
#include "device/host_cores.h"
#include "launch/build_id.h"

namespace nereus {
namespace {

using Work = FunctionRef<void(ThisRank&)>;

void bind_near(int gpu) {
  if constexpr (kHasCuda) {
    const std::vector<int> cores = bind_thread_near_gpu(gpu);
    if (!cores.empty()) log::info("GPU {}: cores {} of the host", gpu, core_list_text(cores));
  }
}

// `work`, whose exception ends the others. What a GPU's stream did after the world's end is
// undefined, and no exception says so.
void run_guarded(ThisRank& me, Work work) {
  me.run([&] {
    work(me);
    if (me.device.kind == Device::Kind::cuda) me.world.check();
  });
}

void run_threads(int ranks, const RankOptions& options, Work work) {
  if (ranks == 1) {
    const LocalWorld alone(1, options.init_timeout);
    const auto self = single_rank("world");
    ThisRank me{*self, alone.rank(0), 0, 1, 1, Device{options.device, 0}};
    return work(me);
  }
  run_thread_world(ranks, {.timeout = options.init_timeout}, [&](Communicator& host, World& world) {
    const int rank = world.rank();
    const auto run = [&](Communicator& all, EndGuard* guard, int64_t free_memory = 0) {
      ThisRank me{all, world, rank, ranks, 1, Device{options.device, rank}, guard, free_memory};
      run_guarded(me, work);
    };
    if (!kHasCuda || options.device != Device::Kind::cuda) return run(host, nullptr);
    if constexpr (kHasCuda) {
      bind_near(rank);
      EndGuard guard(world, options.end_time);
      const int64_t free_memory = cuda::memory_info(rank).free;
      run(*nccl_ranks(world, rank), &guard, free_memory);
    }
  });
}

ControlPlaneOptions control_options(const LaunchEnvironment& launch, const RankOptions& options) {
  ControlPlaneOptions o;
  o.rank = launch.rank;
  o.world_size = launch.world_size;
  o.address = launch.master_address;
  o.port = launch.master_port;
  o.run_id = launch.run_id;
  const std::string build = build_id();
  o.version =
      build.empty() ? options.version : fmt::format("{} (build {})", options.version, build);
  o.configuration = options.configuration;
  o.rendezvous_timeout = options.init_timeout;
  return o;
}

// The GPU of a local rank: its number, or the only one that the launcher lets it see.
int gpu_of(int local_rank) {
  if constexpr (kHasCuda) {
    const int count = cuda::device_count();
    if (local_rank >= count && count == 1) return 0;
  }
  return local_rank;
}

// `work` on this process's rank: with NCCL on GPUs, elsewhere with host_ranks(). The guard outlives
// the communicators.
void run_rank(const LaunchEnvironment& launch, const RankOptions& options, ControlPlane& control,
              World& world, EndGuard& guard, FunctionRef<Communicator&()> host_ranks, Work work) {
  const int local_rank = launch.local_rank >= 0 ? launch.local_rank : control.local_rank();
  const int local_world_size =
      launch.local_world_size > 0 ? launch.local_world_size : control.local_world_size();
  const auto run = [&](Communicator& ranks, Device device, int64_t free_memory = 0) {
    ThisRank me{ranks,           world,  local_rank, local_world_size,
                control.hosts(), device, &guard,     free_memory};
    run_guarded(me, work);
  };
  if (!kHasCuda || options.device != Device::Kind::cuda)
    return run(host_ranks(), Device{options.device, 0});
  if constexpr (kHasCuda) {
    const int gpu = gpu_of(local_rank);
    bind_near(gpu);
    const int64_t free_memory = cuda::memory_info(gpu).free;
    run(*nccl_ranks(world, gpu), Device::cuda(gpu), free_memory);
  }
}

void run_sockets(const LaunchEnvironment& launch, const RankOptions& options, Work work) {
  ControlPlane control(control_options(launch, options));
  const auto world = world_of(control, options.init_timeout);
  {
    EndGuard guard(*world, options.end_time);
    std::unique_ptr<Communicator> ranks;
    const auto make = [&]() -> Communicator& { return *(ranks = socket_ranks(control, *world)); };
    run_rank(launch, options, control, *world, guard, make, work);
  }
  control.close();
}

// A world that failed ends the process with its session (MPI cannot close down): nobody would be
// left to show the message.
[[noreturn]] void show_and_rethrow(MpiSession& session) {
  session.abort_at_end();
  try {
    throw;
  } catch (const std::exception& e) {
    log::error("{}", e.what());
    throw;
  }
}

void run_mpi(LaunchEnvironment launch, const RankOptions& options, Work work) {
  MpiSession session;
  NEREUS_CHECK(kConfig, !launch.size_known || session.size() == launch.world_size,
               "the launcher started {} ranks, and MPI makes a world of {}: this program was built "
               "with Open MPI, and another MPI's launcher started it.\n  Start it with Open MPI's "
               "mpirun, with srun, or with torchrun's variables.",
               launch.world_size, session.size());
  if (session.size() == 1) return run_threads(1, options, work);
  launch.rank = session.rank();
  launch.world_size = session.size();
  try {
    ControlPlaneOptions meeting = control_options(launch, options);
    const bool one_host = launch.local_world_size == launch.world_size;
    if (meeting.address.empty() && one_host) meeting.address = "127.0.0.1";
    const auto control = session.meet(meeting);
    const auto world = world_of(*control, options.init_timeout);
    EndGuard guard(*world, options.end_time);
    std::unique_ptr<Communicator> ranks;  // goes when all have left: MPI works while it is called
    const auto make = [&]() -> Communicator& { return *(ranks = session.ranks(*world)); };
    run_rank(launch, options, *control, *world, guard, make, work);
    control->close();
  } catch (...) {
    show_and_rethrow(session);
  }
}

}  // namespace

void ask_for_gpu_queues(bool speaks) {
  constexpr const char *kVariable = "CUDA_DEVICE_MAX_CONNECTIONS", *kMost = "32";
  const char* const had = std::getenv(kVariable);
  if (speaks && had != nullptr && had != std::string_view(kMost))
    log::info("{}={} is taken as {}: with fewer queues a pipeline's ranks could wait in a circle.",
              kVariable, had, kMost);
  setenv(kVariable, kMost, 1);
}

void ThisRank::run(FunctionRef<void()> work) {
  try {
    run_as_rank(world, work);
  } catch (const Error& e) {
    if (guard != nullptr) guard->ends_with(e);
    throw;
  }
}

void run_ranks(const LaunchEnvironment& launch, const RankOptions& options, Work work) {
  switch (launch.launcher) {
    case Launcher::single:
    case Launcher::threads:
      return run_threads(launch.launcher == Launcher::threads ? launch.world_size : 1, options,
                         work);
    case Launcher::torchrun:
    case Launcher::slurm:
      if (launch.world_size == 1) return run_threads(1, options, work);
      return run_sockets(launch, options, work);
    case Launcher::mpi: {
      if (launch.world_size == 1 && launch.size_known) return run_threads(1, options, work);
      const bool meets =
          launch.size_known && !launch.master_address.empty() && launch.master_port > 0;
      if (!has_mpi() && meets) return run_sockets(launch, options, work);
      return run_mpi(launch, options, work);
    }
  }
}

}  // namespace nereus
