// Runs a test's ranks: as threads of the test program, or, when mpirun started it, as its
// processes, or, when socket_ranks_test.cc did, as processes with sockets between them. What every
// backend of Communicator must do is tested through this.
#pragma once

#include <chrono>
#include <string>

#include "comm/communicator.h"
#include "control/world.h"

namespace nereus::test {

struct Ranks {
  virtual ~Ranks() = default;
  virtual const char* name() const = 0;
  virtual int most() const = 0;  // ranks that can be had
  // False: each rank has a GPU (its number), sums have NCCL's order, and calls are not compared.
  virtual bool on_host() const { return true; }
  // Do ranks see each other's memory? Those of GPUs may, or not.
  virtual bool may_share_memory() const = 0;
  // Calls work on the first `ranks` ranks of a new world (of a group of them where the world is
  // larger). Throws what the world ended with.
  virtual void run(int ranks, std::chrono::milliseconds timeout,
                   FunctionRef<void(Communicator&, World&)> work) = 0;
};

Ranks& thread_ranks();
bool under_mpi();
Ranks& mpi_ranks();  // under mpirun only
bool over_sockets();
Ranks& socket_ranks();  // likewise
bool ranks_are_processes();
Ranks& nccl_ranks();  // threads with a GPU each

}  // namespace nereus::test
