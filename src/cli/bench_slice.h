// nereus bench slice [--configurations TEXT] [--steps N] [--config FILE] [--small]: trains
// configs/slice1.toml, the slice of the 671B model that is measured throughout, once a setting of
// recompute and attention, and prints one table: tokens/s, memory, time to the end of the first
// step, with TorchTitan's figure.
#pragma once

namespace nereus {

// Arguments after `nereus bench`. Returns the exit code: 0, or 2 when a configuration could not
// run; throws Error.
int run_bench_slice(int argc, char** argv);

}  // namespace nereus
