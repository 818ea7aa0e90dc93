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

// On the first `ranks` ranks of `all`, as a world of their own.
void run_on_some(int ranks, Communicator& all, World& world,
                 FunctionRef<void(Communicator&, World&)> work) {
  Stream stream(Device::cpu(), &pool());
  const auto part = all.split("world", all.rank() < ranks ? 0 : -1, 0);
  if (part) work(*part, world);
  all.barrier(stream);
}

class ThreadRanks final : public Ranks {
 public:
  const char* name() const override { return "threads"; }
  int most() const override { return 1024; }
  bool may_share_memory() const override { return true; }
  void run(int ranks, std::chrono::milliseconds timeout,
           FunctionRef<void(Communicator&, World&)> work) override {
    run_thread_world(ranks, {.timeout = timeout}, work);
  }
};

class MpiRanks final : public Ranks {
 public:
  const char* name() const override { return "mpi"; }
  int most() const override { return std::atoi(std::getenv("OMPI_COMM_WORLD_SIZE")); }
  bool may_share_memory() const override { return false; }
  void run(int ranks, std::chrono::milliseconds timeout,
           FunctionRef<void(Communicator&, World&)> work) override {
    if (!session_) session_ = std::make_unique<MpiSession>();
    const auto control = session_->meet({.address = "127.0.0.1"});
    const auto world = world_of(*control, timeout);
    const auto all = session_->ranks(*world);  // goes when all have left
    run_on_some(ranks, *all, *world, work);
    control->close();
  }
  void finish() {
    if (!session_) return;
    run(most(), std::chrono::seconds(20), [](Communicator&, World&) {});
    session_.reset();
  }

 private:
  std::unique_ptr<MpiSession> session_;
};

class SocketRanks final : public Ranks {
 public:
  const char* name() const override { return "sockets"; }
  int most() const override { return me_.world_size; }
  bool may_share_memory() const override { return false; }
  void run(int ranks, std::chrono::milliseconds timeout,
           FunctionRef<void(Communicator&, World&)> work) override {
    ControlPlaneOptions options;
    options.rank = me_.rank;
    options.world_size = me_.world_size;
    options.address = me_.address;
    options.port = me_.port;
    options.run_id = std::to_string(++runs_);  // one world after the other at one port
    options.rendezvous_timeout = std::chrono::seconds(60);
    options.heartbeat = std::chrono::milliseconds(100);
    ControlPlane control(options);
    const auto world = world_of(control, timeout);
    run_on_some(ranks, *nereus::socket_ranks(control, *world), *world, work);
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
  bool may_share_memory() const override { return true; }
  void run(int ranks, std::chrono::milliseconds timeout,
           FunctionRef<void(Communicator&, World&)> work) override {
    if constexpr (kHasCuda) {
      run_thread_world(ranks, {.timeout = timeout}, [&](Communicator&, World& world) {
        const auto on_gpus = nereus::nccl_ranks(world, world.rank());
        run_as_rank(world, [&] { work(*on_gpus, world); });
        world.check();  // what was enqueued after its end did nothing
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
