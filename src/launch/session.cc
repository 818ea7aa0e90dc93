#include "launch/session.h"

#include <memory>
#include <optional>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "comm/mpi_ranks.h"
#include "comm/nccl_ranks.h"
#include "comm/socket_ranks.h"
#include "comm/thread_ranks.h"
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

// `work`, whose exception ends the others. Where the world had ended before, its note is the
// reason: what follows an abort on a GPU is undefined.
void run_guarded(ThisRank& me, FunctionRef<std::optional<std::string>()> failure, Work work) {
  const auto instead = [&] {
    if (me.told) return;  // its own exception is the reason
    if (const auto note = failure()) throw Error(Fault::kComm, *note);
  };
  me.ended = [&] { return failure().has_value(); };
  try {
    work(me);
  } catch (const std::exception& e) {
    instead();
    me.world.give_up(e.what());
    throw;
  } catch (...) {
    instead();
    me.world.give_up("an exception of unknown type");
    throw;
  }
  if (me.device.kind == Device::Kind::cuda) instead();
}

void run_threads(int ranks, const RankOptions& options, Work work) {
  std::vector<std::unique_ptr<World>> peers;  // on GPUs
  const bool nccl = kHasCuda && options.device == Device::Kind::cuda && ranks > 1;
  if (nccl) peers = worlds_in_memory(ranks);
  run_thread_ranks(ranks, {.timeout = options.init_timeout}, [&](Communicator& host) {
    const Device device{options.device, host.rank()};
    if (!nccl) {
      ThisRank me{host, host.rank(), ranks, 1, device, nullptr, nullptr};
      return work(me);
    }
    if constexpr (kHasCuda) {
      World& mine = *peers[static_cast<size_t>(host.rank())];
      bind_near(device.index);
      try {
        const auto world = make_nccl_world(mine, device.index, options.init_timeout);
        ThisRank me{*world, host.rank(), ranks, 1, device, nullptr, nullptr};
        run_guarded(
            me, [&] { return mine.failure(); }, work);
      } catch (const std::exception& e) {
        // Before its world was made: the others wait for it.
        mine.fail(fmt::format("rank {} of the world failed, which ends the others: {}", host.rank(),
                              e.what()));
        throw;
      }
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

// `work` on this process's rank: with NCCL on GPUs, elsewhere with host_world().
void run_rank(const LaunchEnvironment& launch, const RankOptions& options, ControlPlane& control,
              FunctionRef<Communicator&()> host_world, Work work) {
  const int local_rank = launch.local_rank >= 0 ? launch.local_rank : control.local_rank();
  const int local_world_size =
      launch.local_world_size > 0 ? launch.local_world_size : control.local_world_size();
  const auto run = [&](Communicator& world, Device device) {
    ThisRank me{world, local_rank, local_world_size, control.hosts(), device, &control, nullptr};
    run_guarded(
        me,
        [&]() -> std::optional<std::string> {
          const auto failure = control.failure();
          return failure ? std::optional(failure->text) : std::nullopt;
        },
        work);
  };
  if (!kHasCuda || options.device != Device::Kind::cuda)
    return run(host_world(), Device{options.device, 0});
  if constexpr (kHasCuda) {
    const int gpu = gpu_of(local_rank);
    bind_near(gpu);
    const auto peers = world_of(control);
    const auto world = make_nccl_world(*peers, gpu, options.init_timeout);
    run(*world, Device::cuda(gpu));
  }
}

void run_sockets(const LaunchEnvironment& launch, const RankOptions& options, Work work) {
  ControlPlane control(control_options(launch, options));
  {
    std::unique_ptr<Communicator> world;
    const auto make = [&]() -> Communicator& {
      return *(world = make_socket_world(control, options.init_timeout));
    };
    run_rank(launch, options, control, make, work);
  }
  control.close();
}

// Where MPI's ranks are to meet: rank 0 listens at a free port, and tells all.
tcp::Listener meet_through(Communicator& world, ControlPlaneOptions& options, bool one_host) {
  tcp::Listener listener;
  char where[256] = {};
  if (world.rank() == 0) {
    listener = tcp::listen_at(options.port);
    if (options.address.empty()) options.address = one_host ? "127.0.0.1" : tcp::host_name();
    NEREUS_CHECK(kConfig, options.address.size() < 200,
                 "MASTER_ADDR is longer than 200 characters");
    fmt::format_to(where, "{} {}", listener.port, options.address);
  }
  ThreadPool pool(1);
  Stream stream(Device::cpu(), &pool);
  world.broadcast(stream, {reinterpret_cast<std::byte*>(where), DType::u8, {sizeof where}}, 0);
  const std::string text = where;
  options.port = std::stoi(text);
  options.address = text.substr(text.find(' ') + 1);
  return listener;
}

// A world that failed ends the process with its session (MPI cannot close down): nobody would be
// left to show the message.
[[noreturn]] void show_and_rethrow(Communicator& world) {
  try {
    throw;
  } catch (const std::exception& e) {
    world.give_up(e.what());
    log::error("{}", e.what());
    throw;
  }
}

void run_mpi(LaunchEnvironment launch, const RankOptions& options, Work work) {
  MpiSession session;
  const auto world = session.world(options.init_timeout);
  NEREUS_CHECK(kConfig, !launch.size_known || world->size() == launch.world_size,
               "the launcher started {} ranks, and MPI makes a world of {}: this program was built "
               "with Open MPI, and another MPI's launcher started it.\n  Start it with Open MPI's "
               "mpirun, with srun, or with torchrun's variables.",
               launch.world_size, world->size());
  if (world->size() == 1) return run_threads(1, options, work);
  launch.rank = world->rank();
  launch.world_size = world->size();
  try {
    ControlPlaneOptions meeting = control_options(launch, options);
    tcp::Listener listener =
        meet_through(*world, meeting, launch.local_world_size == launch.world_size);
    ControlPlane control(meeting, std::move(listener));
    run_rank(
        launch, options, control, [&]() -> Communicator& { return *world; }, work);
    control.close();
  } catch (...) {
    show_and_rethrow(*world);
  }
}

}  // namespace

void ThisRank::run(FunctionRef<void()> work) {
  const auto tell = [this](const char* reason) {
    told = ended && !ended();  // what comes after the world's end is no news
    if (told) world.give_up(reason);
  };
  try {
    work();
  } catch (const std::exception& e) {
    tell(e.what());
    throw;
  } catch (...) {
    tell("an exception of unknown type");
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
