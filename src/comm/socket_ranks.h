// Ranks as processes that find each other through the control plane: torchrun-style variables, or
// srun without MPI. For host memory; the protocol is pairwise_ranks.h's.
//
// Each rank opens a TCP connection to a peer when it first sends to it, at a port that the system
// chooses. A rank that dies ends the others with the control plane's note, which is awaited for a
// second before a lost connection is reported as such.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "control/control_plane.h"
#include "control/world.h"

namespace nereus {

// All ranks of the control plane, whose world it is; both must outlive the groups. One for a
// control plane. The world's time-out is also that of a peer's address and connection.
std::unique_ptr<Communicator> socket_ranks(ControlPlane&, World&);

}  // namespace nereus
