// Who started this process, and as which of how many ranks: read from what launchers leave in the
// environment. A pure function; the environment is its argument.
//
// Which launcher counts, in this order:
//   torchrun  RANK and WORLD_SIZE: torchrun itself, and whatever sets its names. MASTER_ADDR and
//             MASTER_PORT are needed when WORLD_SIZE > 1; LOCAL_RANK, LOCAL_WORLD_SIZE may be
//             there.
//   mpi       OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE (mpirun), or PMIX_RANK or PMI_RANK
//             outside of Slurm, whose number of ranks is known only to MPI.
//   slurm     SLURM_PROCID and SLURM_NTASKS in a job step (srun). In a batch script itself,
//             which is no step, and in the shell that salloc opens, a step of one task that is
//             numbered from the top of 32 bits, the process is single.
//   threads   --nproc N, N > 1
//   single    nothing of these
//
// The numbers of Slurm's jobs and steps are identities: any text is one.
//
// MASTER_ADDR and MASTER_PORT, where set, count under every launcher. Slurm's ranks otherwise meet
// at the step's first host, at a port that follows from the numbers of job and step (10000 to
// 29999). Under torchrun's own store (TORCHELASTIC_USE_AGENT_STORE), which keeps MASTER_PORT for
// itself, they meet one port above.
#pragma once

#include <map>
#include <string>

namespace nereus {

enum class Launcher { single, threads, torchrun, slurm, mpi };
const char* name_of(Launcher);

struct LaunchFlags {
  int nproc = 0;  // --nproc; 0: not given
};

struct LaunchEnvironment {
  Launcher launcher = Launcher::single;
  int rank = 0, world_size = 1;               // threads: world_size ranks in this process
  int local_rank = -1, local_world_size = 0;  // on this host; -1 and 0: the launcher does not say
  std::string master_address;                 // "" where nobody needs it, or MPI finds it
  int master_port = 0;                        // 0 likewise
  std::string run_id;      // the launcher's name of the run: others at the same port are told apart
  bool size_known = true;  // false: ask MPI for rank and world_size

  std::string to_string() const;  // "rank 3 of 8, started by srun, which meet at node01:12345"
};

using Environment = std::map<std::string, std::string>;

// Throws Error{kConfig} for what is half set, no number, out of range or contradictory.
LaunchEnvironment read_launch_environment(const Environment&, const LaunchFlags&);

// The variables of this process that read_launch_environment looks at.
Environment launch_variables();

}  // namespace nereus
