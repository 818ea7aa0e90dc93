#include "comm/session.h"

#include <memory>

#include "base/check.h"
#include "base/log.h"
#include "comm/build_id.h"
#include "comm/mpi_ranks.h"
#include "comm/socket_ranks.h"
#include "comm/thread_ranks.h"

namespace nereus {
namespace {

using Work = FunctionRef<void(ThisRank&)>;

void run_threads(const LaunchEnvironment& launch, const RankOptions& options, Work work) {
  const int ranks = launch.launcher == Launcher::threads ? launch.world_size : 1;
  run_thread_ranks(ranks, {.timeout = options.init_timeout}, [&](Communicator& world) {
    ThisRank me{world, world.rank(), ranks, 1, Device::cpu(), nullptr};
    work(me);
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

// `work` on this process's rank; what it throws ends the others.
void run_rank(const LaunchEnvironment& launch, Communicator& world, ControlPlane& control,
              Work work) {
  ThisRank me{.world = world,
              .local_rank = launch.local_rank >= 0 ? launch.local_rank : control.local_rank(),
              .local_world_size = launch.local_world_size > 0 ? launch.local_world_size
                                                              : control.local_world_size(),
              .hosts = control.hosts(),
              .device = Device::cpu(),
              .control = &control};
  try {
    work(me);
  } catch (const std::exception& e) {
    world.give_up(e.what());
    throw;
  } catch (...) {
    world.give_up("an exception of unknown type");
    throw;
  }
}

void run_sockets(const LaunchEnvironment& launch, const RankOptions& options, Work work) {
  ControlPlane control(control_options(launch, options));
  {
    const auto world = make_socket_world(control, options.init_timeout);
    run_rank(launch, *world, control, work);
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
  if (world->size() == 1) return run_threads({}, options, work);
  launch.rank = world->rank();
  launch.world_size = world->size();
  try {
    ControlPlaneOptions meeting = control_options(launch, options);
    tcp::Listener listener =
        meet_through(*world, meeting, launch.local_world_size == launch.world_size);
    ControlPlane control(meeting, std::move(listener));
    run_rank(launch, *world, control, work);
    control.close();
  } catch (...) {
    show_and_rethrow(*world);
  }
}

}  // namespace

void run_ranks(const LaunchEnvironment& launch, const RankOptions& options, Work work) {
  switch (launch.launcher) {
    case Launcher::single:
    case Launcher::threads:
      return run_threads(launch, options, work);
    case Launcher::torchrun:
    case Launcher::slurm:
      if (launch.world_size == 1) return run_threads({}, options, work);
      return run_sockets(launch, options, work);
    case Launcher::mpi: {
      if (launch.world_size == 1 && launch.size_known) return run_threads({}, options, work);
      const bool meets =
          launch.size_known && !launch.master_address.empty() && launch.master_port > 0;
      if (!has_mpi() && meets) return run_sockets(launch, options, work);
      return run_mpi(launch, options, work);
    }
  }
}

}  // namespace nereus
