#pragma once

namespace nereus::test {

// Was this process started by mpirun, with others? Reads the launcher's variables
// (OMPI_COMM_WORLD_SIZE, PMI_SIZE); does not start MPI.
bool started_by_mpi();

}  // namespace nereus::test
