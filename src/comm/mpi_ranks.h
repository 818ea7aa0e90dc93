// Ranks as processes that mpirun or srun started with MPI: the data plane of runs on CPUs. The
// protocol is pairwise_ranks.h's; failures travel through the control plane.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "control/control_plane.h"
#include "control/world.h"

namespace nereus {

// Was this program built with MPI?
bool has_mpi();

// MPI from here on; one in a process, on its main thread, and once. Without MPI in this build, an
// Error{kConfig} that says so.
class MpiSession {
 public:
  MpiSession();
  // Ends all processes of the job after abort_at_end(), with its code, and when the last world has
  // failed: MPI cannot close down among ranks that have left a collective.
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  int rank() const;  // in MPI_COMM_WORLD
  int size() const;
  void abort_at_end(int code);

  // A control plane of all processes, each of which calls this: rank 0 listens at options.port (0:
  // a free one), and tells the others where. `rank` and `world_size` are filled in; `address` where
  // it is empty is this host's name.
  std::unique_ptr<ControlPlane> meet(ControlPlaneOptions options);

  // All processes, with their ranks in MPI_COMM_WORLD, which are those of the world; it must
  // outlive the groups. A collective of all processes. Those of two worlds are independent of each
  // other: one that has failed leaves the next as it was.
  std::unique_ptr<Communicator> ranks(World&);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nereus
