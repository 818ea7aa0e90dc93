#include "launch/session.h"

#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "base/plain_write.h"
#include "base/shown_error.h"
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

// As main() would: in one piece, whatever other threads do.
void show(const std::string& text) { plain_write(STDERR_FILENO, fmt::format("error: {}\n", text)); }

// srun starts ranks on nodes whose names Slurm itself uses; elsewhere a name may be new.
constexpr std::chrono::seconds kSlurmNameTime{5};
// For rank 0 to come, and for the others to come to it, where a rank failed before they met.
constexpr std::chrono::seconds kTellTime{10};

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
  if (launch.launcher == Launcher::slurm) o.name_timeout = kSlurmNameTime;
  o.show = show;
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
  session.abort_at_end(Error(Fault::kComm, "").exit_code());
  try {
    throw;
  } catch (const ShownError& e) {
    session.abort_at_end(e.exit_code());
    throw;
  } catch (const std::exception& e) {
    log::error("{}", e.what());
    throw;
  }
}

// Where processes of an MPI launcher meet.
std::unique_ptr<ControlPlane> meet(MpiSession& session, const LaunchEnvironment& launch,
                                   ControlPlaneOptions options) {
  const bool one_host = launch.local_world_size == launch.world_size;
  if (options.address.empty() && one_host) options.address = "127.0.0.1";
  return session.meet(options);
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
    const auto control = meet(session, launch, control_options(launch, options));
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

namespace {

bool meets_by_sockets(const LaunchEnvironment& launch) {
  if (launch.launcher != Launcher::mpi) return true;
  const bool meets = launch.size_known && !launch.master_address.empty() && launch.master_port > 0;
  return !has_mpi() && meets;
}

}  // namespace

void fail_before_meeting(const LaunchEnvironment& launch, const Error& error) {
  const bool alone = launch.launcher == Launcher::single || launch.launcher == Launcher::threads ||
                     (launch.size_known && launch.world_size == 1);
  if (alone) throw error;
  const int rank = std::max(0, launch.rank);
  const Error mine(error.fault(),
                   error.fault() == Fault::kConfig
                       ? mistake_text(rank, error.what())
                       : fmt::format("rank {} (host {}) failed before the ranks met: {}", rank,
                                     tcp::host_name(), error.what()));
  RankOptions shortly;
  shortly.init_timeout = kTellTime;
  ControlPlaneOptions options = control_options(launch, shortly);
  options.failed = mine;
  try {
    if (meets_by_sockets(launch)) {
      const ControlPlane told(options);
    } else {
      MpiSession session;
      session.abort_at_end(error.exit_code());
      meet(session, launch, options);
    }
  } catch (const ShownError&) {
    throw;
  } catch (const Error&) {
    // Nobody to tell, or the others know; this rank says what it met.
  }
  throw mine;
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
      if (meets_by_sockets(launch)) return run_sockets(launch, options, work);
      return run_mpi(launch, options, work);
    }
  }
}

}  // namespace nereus
