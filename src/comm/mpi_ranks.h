// Ranks as processes that mpirun or srun started with MPI: the data plane of runs on CPUs.
//
// A collective costs each rank a message to each other rank, which says what it calls (so that
// ranks that disagree or do not come are known by name), and the data, pairwise. That is for tens
// of ranks and for clarity; GPUs have NCCL.
#pragma once

#include <chrono>
#include <memory>

#include "comm/communicator.h"

namespace nereus {

// Was this program built with MPI?
bool has_mpi();

// MPI from here on; one in a process, on its main thread, and once. Without MPI in this build, an
// Error{kConfig} that says so. When the last world has failed, the destructor ends all processes
// of the job: MPI cannot close down among ranks that have left a collective.
class MpiSession {
 public:
  MpiSession();
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  // All processes, with their ranks in MPI_COMM_WORLD. A collective of all processes. Worlds are
  // independent of each other: one that has failed leaves the next as it was.
  std::unique_ptr<Communicator> world(std::chrono::milliseconds timeout);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nereus
