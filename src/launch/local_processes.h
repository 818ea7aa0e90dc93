// Ranks as processes of this machine, started as torchrun would start them: GPUs of one process
// wait for each other in the driver (where memory is made, kernels are loaded), and ranks that wait
// for each other in collectives at that moment would hang.
#pragma once

#include <string>
#include <vector>

namespace nereus {

// Starts `command` (a path and its arguments) `ranks` times with RANK, WORLD_SIZE, LOCAL_RANK,
// LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, and waits for all. SIGTERM, SIGINT and SIGUSR1 are
// passed on. When one fails, the others have kGraceSeconds to end by themselves before they are
// killed; they are killed too when this process is. Returns 0, or what the first that failed
// returned (128 + the signal's number where a signal ended it).
int run_local_processes(const std::vector<std::string>& command, int ranks);

inline constexpr int kGraceSeconds = 30;

// The command line of such a process: without --nproc.
std::vector<std::string> without_nproc(std::vector<std::string> arguments);

}  // namespace nereus
