#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>

#include "comm/communicator_test.h"
#include "comm/mpi_ranks.h"
#include "comm/nccl_ranks.h"
#include "comm/socket_ranks.h"
#include "comm/thread_ranks.h"
#include "control/control_plane.h"
#include "control/world.h"
#include "device/cuda_runtime.h"
#include "test/child_process.h"
#include "test/started_by_mpi.h"
#include "test/test_tensor.h"

namespace nereus::test {
namespace {

class ThreadRanks final : public Ranks {
 public:
  const char* name() const override { return "threads"; }
  int most() const override { return 1024; }
  void run(int ranks, std::chrono::milliseconds timeout,
           FunctionRef<void(Communicator&)> work) override {
    run_thread_ranks(ranks, {.timeout = timeout}, work);
  }
};

class MpiRanks final : public Ranks {
 public:
  const char* name() const override { return "mpi"; }
  int most() const override { return std::atoi(std::getenv("OMPI_COMM_WORLD_SIZE")); }
  void run(int ranks, std::chrono::milliseconds timeout,
           FunctionRef<void(Communicator&)> work) override {
    if (!session_) session_ = std::make_unique<MpiSession>();
    Stream stream(Device::cpu(), &pool());
    const auto world = session_->world(timeout);
    const auto part = world->split("world", world->rank() < ranks ? 0 : -1, 0);
    if (part) work(*part);
    world->barrier(stream);
  }
  void finish() {
    if (!session_) return;
    Stream stream(Device::cpu(), &pool());
    session_->world(std::chrono::seconds(20))->barrier(stream);
    session_.reset();
  }

 private:
  std::unique_ptr<MpiSession> session_;
};

class SocketRanks final : public Ranks {
 public:
  const char* name() const override { return "sockets"; }
  int most() const override { return me_.world_size; }
  void run(int ranks, std::chrono::milliseconds timeout,
           FunctionRef<void(Communicator&)> work) override {
    ControlPlaneOptions options;
    options.rank = me_.rank;
    options.world_size = me_.world_size;
    options.address = me_.address;
    options.port = me_.port;
    options.run_id = std::to_string(++runs_);  // one world after the other at one port
    options.rendezvous_timeout = std::chrono::seconds(60);
    options.heartbeat = std::chrono::milliseconds(100);
    Stream stream(Device::cpu(), &pool());
    ControlPlane control(options);
    {
      const auto world = make_socket_world(control, timeout);
      const auto part = world->split("world", world->rank() < ranks ? 0 : -1, 0);
      if (part) work(*part);
      world->barrier(stream);
    }
    control.close();
  }

 private:
  ChildRank me_ = this_child_rank();
  int runs_ = 0;
};

// Threads of this process with a GPU each.
class NcclRanks final : public Ranks {
 public:
  const char* name() const override { return "nccl"; }
  int most() const override {
    if constexpr (kHasCuda) return cuda::device_count();
    return 0;
  }
  bool on_host() const override { return false; }
  void run(int ranks, std::chrono::milliseconds timeout,
           FunctionRef<void(Communicator&)> work) override {
    if constexpr (kHasCuda) {
      const auto worlds = worlds_in_memory(ranks);
      run_thread_ranks(ranks, {.timeout = timeout}, [&](Communicator& host) {
        World& world = *worlds[static_cast<size_t>(host.rank())];
        const auto instead = [&] {
          if (const auto note = world.failure()) throw Error(Fault::kComm, *note);
        };
        const auto ranks_on_gpus = make_nccl_world(world, host.rank(), timeout);
        try {
          work(*ranks_on_gpus);
        } catch (const std::exception& e) {
          instead();
          ranks_on_gpus->give_up(e.what());
          throw;
        }
        instead();
      });
    }
  }
};

class FinishMpi final : public testing::Environment {
 public:
  void TearDown() override {
    if (under_mpi()) static_cast<MpiRanks&>(mpi_ranks()).finish();
  }
};
[[maybe_unused]] const auto* const finish_mpi =
    testing::AddGlobalTestEnvironment(new FinishMpi);  // GoogleTest owns it

}  // namespace

Ranks& thread_ranks() {
  static ThreadRanks ranks;
  return ranks;
}
Ranks& mpi_ranks() {
  static MpiRanks ranks;
  return ranks;
}
Ranks& socket_ranks() {
  static SocketRanks ranks;
  return ranks;
}
Ranks& nccl_ranks() {
  static NcclRanks ranks;
  return ranks;
}
bool under_mpi() { return has_mpi() && started_by_mpi(); }
bool over_sockets() { return !given("NEREUS_TEST_SOCKETS").empty(); }
bool ranks_are_processes() { return under_mpi() || over_sockets(); }

}  // namespace nereus::test
