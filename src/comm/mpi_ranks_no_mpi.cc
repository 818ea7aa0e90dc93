// In builds without MPI.
#include "base/check.h"
#include "comm/mpi_ranks.h"

namespace nereus {

bool has_mpi() { return false; }

struct MpiSession::Impl {};

MpiSession::MpiSession() {
  NEREUS_FAIL(kConfig,
              "this process was started by an MPI launcher, and this program was built without "
              "MPI.\n  Install libopenmpi-dev (scripts/bootstrap.sh does) and build again, or "
              "start ranks as threads with --nproc.");
}
MpiSession::~MpiSession() = default;

int MpiSession::rank() const { return 0; }
int MpiSession::size() const { return 1; }
void MpiSession::abort_at_end(int) {}
std::unique_ptr<ControlPlane> MpiSession::meet(ControlPlaneOptions) { return nullptr; }
std::unique_ptr<Communicator> MpiSession::ranks(World&) { return nullptr; }

}  // namespace nereus
