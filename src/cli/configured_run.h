// The ranks of a command that takes a run's configuration (`train`, `eval`): how many there are,
// who started them, and each one's stream.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "config/load.h"
#include "launch/session.h"

namespace nereus {

// The configuration of `arguments`, checked for the ranks that a launcher or --nproc starts; with
// --help, --config-reference and --dry-run launchers are not looked at.
LoadedConfig load_run_config(std::span<const std::string> arguments, TrainFlags& flags);

// Calls `work` for each rank of this process, on that rank's thread, after the notices of the
// configuration; the exit code is rank 0's, and the same on all. `argv`: of the command, which is
// started once more for each GPU where --nproc asks for several. Inside `work` what others wait for
// belongs into ThisRank::run().
int run_configured_ranks(int argc, char** argv, const LoadedConfig&, int64_t nproc,
                         const std::function<int(Stream&, ThisRank&)>& work);

}  // namespace nereus
