// Ranks as processes of this machine, started as torchrun would start them: GPUs of one process
// wait for each other in the driver (where memory is made, kernels are loaded), and ranks that wait
// for each other in collectives at that moment would hang.
#pragma once

#include <chrono>
#include <string>
#include <vector>

namespace nereus {

struct Grace {
  std::chrono::milliseconds after_failure{30'000};
  std::chrono::milliseconds after_death{2'400};  // an EndGuard ends ranks in less
};

// Starts `command` (a path and its arguments) `ranks` times with RANK, WORLD_SIZE, LOCAL_RANK,
// LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, and waits for all. SIGTERM, SIGINT and SIGUSR1 are
// passed on. When one fails, the others have a while to end by themselves before they are killed,
// which a message says. One that stopped because of a signal (128 + its number) leaves them all the
// time they want: to save weights. They are killed too when this process is.
//
// Returns 0, or what the first that failed returned. Where a signal ended that one: Fault::kComm's
// exit code, but 128 + the number of one of those three (the second SIGINT does so).
int run_local_processes(const std::vector<std::string>& command, int ranks, const Grace& = {});

// The command line of such a process: without --nproc.
std::vector<std::string> without_nproc(std::vector<std::string> arguments);

}  // namespace nereus
