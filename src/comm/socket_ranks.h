// Ranks as processes that find each other through the control plane: torchrun-style variables, or
// srun without MPI. For host memory. The sums' bits are those of threads and MPI.
//
// As with MPI a collective costs each rank a message to each other rank that says what it calls,
// and the data, pairwise: for tens of ranks and for clarity.
//
// Each rank opens a TCP connection to a peer when it first sends to it, at a port that the system
// chooses. A rank that dies ends the others with the control plane's note, which is awaited for a
// second before a lost connection is reported as such.
#pragma once

#include <chrono>
#include <memory>

#include "comm/communicator.h"
#include "control/control_plane.h"

namespace nereus {

// All ranks of the control plane, which must outlive the groups. One world for a control plane.
std::unique_ptr<Communicator> make_socket_world(ControlPlane&, std::chrono::milliseconds timeout);

}  // namespace nereus
